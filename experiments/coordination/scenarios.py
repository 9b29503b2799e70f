# SPDX-License-Identifier: MIT
"""Scenarios are data: a YAML file names a partitioner, a router and a decision, and may change the recipe."""

import functools
import inspect
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError, nearest
from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.single import SinglePartitioner
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.networks import check_head
from experiments.training.arguments import check_trainer
from lightning_modules.active_classes import ActiveClasses
from lightning_modules.decisions.base import Decision
from lightning_modules.initialisers import Initialiser
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.routers.base import Router

# What a scenario is made of: from group to the class that its node builds. A new group is one entry here, a key of
# `schema.TrainingConfig` and an argument of `job.Recipe`.
KINDS = {
    "partitioner": Partitioner,
    "router": Router,
    "decision": Decision,
    "loss": ClassificationLoss,
    "init": Initialiser,
    "optimizer": functools.partial,
    "active_classes": ActiveClasses,
    "head": functools.partial,
    "scheduler": functools.partial,
}
RECIPE = tuple(group for group in KINDS if group not in ("partitioner", "router", "decision"))  # how it is trained
TRAINER_KEYS = ("max_epochs", "batch_size")  # what of the trainer's values is a matter of the recipe


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    Attributes:
        name: of its file, or what was written in its place (see `rows.make_row`).
        title: what reports call it.
        nodes: Hydra node of each group of `KINDS`, the comparison's own unless the scenario replaces it; the router
            may be None.
        names: short name of each node, "" for None.
        trainer: keys of `trainer` that the scenario replaces, of `TRAINER_KEYS`.
    """

    name: str
    title: str
    nodes: dict[str, dict[str, Any] | None]
    names: dict[str, str]
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """The nodes that say how its sub-networks are trained."""
        return {group: self.nodes[group] for group in RECIPE}

    @cached_property
    def router(self) -> Router | None:
        return instantiate(self.nodes["router"]) if self.nodes["router"] else None

    @cached_property
    def decision(self) -> Decision:
        return instantiate(self.nodes["decision"])

    @property
    def trains(self) -> bool:
        """Whether it needs trained sub-networks."""
        return self.decision.needs_heads or (self.router is not None and self.router.needs_heads)


def make_scenario(name: str, content: DictConfig, cfg: DictConfig) -> Scenario:
    """Makes a scenario of the content of its file.

    Args:
        content: title, partitioner, decision and perhaps other groups of `KINDS`. A value is the name of a file in the
            group, a node with `_target_`, `selected` (what the command line selected), or null where nothing is needed.
            The key trainer holds values of `TRAINER_KEYS` that replace those of the command line.

    Raises:
        InputError: an unknown or missing key.
        InstantiationException: an argument that a constructor does not take, or a value it refuses.
    """
    known = ("title", *KINDS, "trainer")
    unknown, missing = set(content) - set(known), {"title", "partitioner", "decision"} - set(content)
    if unknown or missing:
        wrong = f"unknown keys {sorted(unknown)}" if unknown else f"no {sorted(missing)}"
        raise InputError(
            f"scenario {name} with {wrong}", f"keys of {', '.join(known)}", f"correct configs/scenario/{name}.yaml"
        )
    nodes = {group: node_of(group, content, cfg) for group in KINDS}
    names = {group: short_name(group, node) if node else "" for group, node in nodes.items()}
    scenario = Scenario(name, content["title"], nodes, names, _trainer(name, content.get("trainer", {}), cfg))
    for group, node in nodes.items():  # built once here, so that a wrong argument is found before anything is written
        if node is not None and not isinstance(instantiate(node), KINDS[group]):
            got = f"{group} {node} of scenario {name}"
            raise InputError(got, f"a node whose _target_ is a {group}", f"correct the {group}")
    _try_out({group: nodes[group] for group in ("head", "optimizer", "scheduler")})
    settings = {**(cfg.get("trainer") or {}), **scenario.trainer}
    if scenario.trains:
        check_head(nodes["head"], instantiate(nodes["active_classes"]), settings, instantiate(nodes["loss"]))
    if scenario.router is None and scenario.decision.needs_route:
        if not isinstance(instantiate(nodes["partitioner"]), SinglePartitioner):
            raise InputError(
                f"no router in scenario {name}", f"one: partitioner {names['partitioner']} makes several clusters",
                "name a router, or partitioner: single",
            )  # fmt: skip
    return scenario


def _try_out(nodes: dict[str, Any]) -> None:
    # They are made with the first sub-network only; what they refuse shall be known before anything is written.
    made: dict[str, Any] = {}
    for group, node in nodes.items():
        make = instantiate(node)
        try:
            if group == "head":
                made[group] = make(torch.randn(8, 64))
            elif group == "optimizer":
                made[group] = make(made["head"].parameter_groups())
            elif "total_steps" in inspect.signature(make).parameters:
                make(made["optimizer"], total_steps=10)
            else:
                make(made["optimizer"])
        except (TypeError, ValueError) as error:
            raise InputError(f"{group} {node}", "arguments it takes", f"correct them ({error})") from None


def _trainer(name: str, values: Any, cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else values
    if not isinstance(plain, dict) or not set(plain) <= set(TRAINER_KEYS):
        got, expected = f"trainer: {plain} in scenario {name}", f"values for {', '.join(TRAINER_KEYS)}"
        raise InputError(got, expected, f"correct configs/scenario/{name}.yaml")
    if plain:
        check_trainer(plain)
    return plain


def node_of(group: str, content: DictConfig, cfg: DictConfig) -> dict[str, Any] | None:
    """The node of a group that a scenario's content stands for, None for null.

    A group that the content does not name is what the command line selected.
    """
    value = content.get(group, None if group == "router" else "selected")
    if isinstance(value, str):
        value = cfg[group] if value == "selected" else load_node(group, value)
    return None if value is None else OmegaConf.to_container(value, resolve=True)


def files(group: str) -> list[str]:
    """Names of the files of a group, alphabetical."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def load_node(group: str, name: str) -> DictConfig:
    """The content of `configs/<group>/<name>.yaml`.

    Raises:
        InputError: no such file; the known ones are named.
    """
    known = files(group)
    if name not in known:
        cure = nearest(name, known, f"correct the name or add {name}.yaml")
        raise InputError(f"{group} {name!r}", f"one of {', '.join(known)}", cure)
    return OmegaConf.load(CONFIGS / group / f"{name}.yaml")


def short_name(group: str, node: dict[str, Any]) -> str:
    """The file of the group that a node comes from, and what differs from it.

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
    """Arguments of a node that are not those of a file, as `key=value`."""
    return [f"{key}={value}" for key, value in node.items() if key not in content or content[key] != value]
