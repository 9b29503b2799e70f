# SPDX-License-Identifier: MIT
"""Scenarios are data: a YAML file names a partitioner, a router and a decision, and may replace loss or init."""

import functools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.single import SinglePartitioner
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.schema import TrainerConfig, check_trainer
from lightning_modules.active_classes import ActiveClasses
from lightning_modules.decisions.base import Decision
from lightning_modules.heads import Initialiser
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.routers.base import Router

KINDS = {
    "partitioner": Partitioner,
    "router": Router,
    "decision": Decision,
    "loss": ClassificationLoss,
    "init": Initialiser,
    "optimizer": functools.partial,
    "active_classes": ActiveClasses,
}
KEYS = ("title", "partitioner", "router", "decision", "loss", "init", "optimizer", "active_classes")
TRAINER_KEYS = ("max_epochs", "batch_size", "schedule")  # what of the trainer's values is a matter of the recipe


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    Attributes:
        name: of its file.
        title: for tables.
        partitioner: Hydra node; `partitioner_name` is its short name for tables.
        router_node, decision_node: Hydra nodes; the router may be None.
        loss, init, optimizer, active_classes: Hydra nodes, the comparison's own unless the scenario replaces them.
        names: short names of partitioner, loss, init, router and decision for results.csv.
        trainer: values of `schema.TrainerConfig` that the scenario replaces, of `TRAINER_KEYS`.
    """

    name: str
    title: str
    partitioner: dict[str, Any]
    router_node: dict[str, Any] | None
    decision_node: dict[str, Any]
    loss: dict[str, Any]
    init: dict[str, Any]
    optimizer: dict[str, Any]
    active_classes: dict[str, Any]
    names: dict[str, str]
    trainer: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def router(self) -> Router | None:
        """The cluster finder."""
        return instantiate(self.router_node) if self.router_node else None

    @cached_property
    def decision(self) -> Decision:
        """The final decision."""
        return instantiate(self.decision_node)

    @property
    def trains(self) -> bool:
        """Whether it needs trained sub-networks."""
        return self.decision.needs_heads or (self.router is not None and self.router.needs_heads)


def load_scenarios(names: Any, cfg: DictConfig) -> list[Scenario]:
    """Reads `configs/scenario/<name>.yaml` for each name.

    Args:
        names: a list of names.
        cfg: the composed configuration, whose partitioner, loss, init and optimizer scenarios refer to.

    Raises:
        InputError: an unknown scenario, an unknown key in its file, or one named twice.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"scenarios = {names}", "a list without repetitions", "name each scenario once")
    return [make_scenario(name, load_node("scenario", name), cfg) for name in names]


def make_scenario(name: str, content: DictConfig, cfg: DictConfig) -> Scenario:
    """Makes a scenario of the content of its file.

    Args:
        name: of the scenario.
        content: keys title, partitioner, router, decision and perhaps loss, init, optimizer, active_classes. A value
            is the name of a file in the group of that name, a node with `_target_`, `selected` (what the command line
            selected), or null where nothing is needed. The key trainer holds values of `TRAINER_KEYS` that replace
            those of the command line.
        cfg: the composed configuration.

    Raises:
        InputError: an unknown or missing key.
        InstantiationException: an argument that a constructor does not take, or a value it refuses.
    """
    unknown, missing = set(content) - {*KEYS, "trainer"}, {"title", "partitioner", "decision"} - set(content)
    if unknown or missing:
        wrong = f"unknown keys {sorted(unknown)}" if unknown else f"no {sorted(missing)}"
        raise InputError(
            f"scenario {name} with {wrong}",
            f"keys of {', '.join(KEYS)}, trainer",
            f"correct configs/scenario/{name}.yaml",
        )
    nodes, names = {}, {}
    for group in KEYS[1:]:
        value = content.get(group, None if group == "router" else "selected")
        node = OmegaConf.to_container(_node(group, value, cfg), resolve=True) if value is not None else None
        nodes[group], names[group] = node, short_name(group, node) if node else ""
    scenario = Scenario(
        name, content["title"], nodes["partitioner"], nodes["router"], nodes["decision"],
        nodes["loss"], nodes["init"], nodes["optimizer"], nodes["active_classes"], names,
        _trainer(name, content.get("trainer", {}), cfg),
    )  # fmt: skip
    for group, node in nodes.items():  # built once here, so that a wrong argument is found before anything is written
        built = instantiate(node) if node is not None else None
        if built is not None and not isinstance(built, KINDS[group]):
            raise InputError(
                f"{group} {node} of scenario {name}", f"a node whose _target_ is a {group}", f"correct the {group}"
            )
        if group == "optimizer":
            try:
                built([torch.zeros(1, requires_grad=True)])
            except (TypeError, ValueError) as error:
                raise InputError(f"optimizer {node}", "arguments it takes", f"correct them ({error})") from None
    if scenario.router_node is None and scenario.decision.needs_route:
        if not isinstance(instantiate(scenario.partitioner), SinglePartitioner):
            raise InputError(
                f"no router in scenario {name}", f"one: partitioner {names['partitioner']} makes several clusters",
                "name a router, or partitioner: single",
            )  # fmt: skip
    return scenario


def _trainer(name: str, values: Any, cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else values
    if not isinstance(plain, dict) or not set(plain) <= set(TRAINER_KEYS):
        raise InputError(
            f"trainer: {plain} in scenario {name}", f"values for {', '.join(TRAINER_KEYS)}",
            f"correct configs/scenario/{name}.yaml",
        )  # fmt: skip
    if plain:
        check_trainer(OmegaConf.merge(OmegaConf.structured(TrainerConfig), cfg.get("trainer", {}), plain))
    return plain


def _node(group: str, value: Any, cfg: DictConfig) -> DictConfig:
    if value == "selected":
        return cfg[group]
    return load_node(group, value) if isinstance(value, str) else value


def load_node(group: str, name: str) -> DictConfig:
    """The content of `configs/<group>/<name>.yaml`.

    Args:
        group: a folder of configs.
        name: a file in it, without suffix.

    Raises:
        InputError: no such file; the known ones are named.
    """
    file = CONFIGS / group / f"{name}.yaml"
    known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    if name not in known:
        raise InputError(f"{group} {name!r}", f"one of {', '.join(known)}", f"correct the name or add {file.name}")
    return OmegaConf.load(file)


def short_name(group: str, node: dict[str, Any]) -> str:
    """The file of the group that a node comes from, and what differs from it.

    Args:
        group: a folder of configs.
        node: a node with `_target_`.

    Returns:
        The file whose `_target_` (and, among several, most arguments) the node shares, or else its class name.

    >>> short_name("loss", {"_target_": "lightning_modules.losses.arcface.ArcFace", "scale": 64.0, "margin": 0.3})
    'arcface(margin=0.3)'
    """
    best, differences = str(node.get("_target_", "")).rpartition(".")[2], None
    for file in sorted((CONFIGS / group).glob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        if isinstance(content, dict) and content.get("_target_") == node.get("_target_"):
            found = differing(node, content)
            if differences is None or len(found) < len(differences):
                best, differences = file.stem, found
    return f"{best}({','.join(differences)})" if differences else best


def differing(node: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """Arguments of a node that are not those of a file, as `key=value`.

    Args:
        node: what was selected.
        content: of the file.
    """
    return [f"{key}={value}" for key, value in node.items() if key not in content or content[key] != value]
