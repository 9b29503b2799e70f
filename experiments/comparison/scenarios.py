# SPDX-License-Identifier: MIT
"""Scenarios: a YAML file names a partitioner, a router and a decision, and may change the recipe."""

import functools
import inspect
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.single import SinglePartitioner
from experiments.command_line.choices import load_node, short_name
from experiments.command_line.trainer_arguments import check_trainer
from experiments.training.build import check_head
from lightning_modules.active_classes import ActiveClasses
from lightning_modules.decisions.base import Decision
from lightning_modules.initialisers import Initialiser
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.routers.base import Router

# The groups of a scenario, and the class that the node of each builds. A new group is an entry here, a key of
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
TRAINER_KEYS = ("max_epochs", "batch_size")  # that a scenario may change
TRAIN_VAL = "train_val"  # the value of the key refit


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison.

    Attributes:
        name: the name of its file, or its row (see `rows`).
        title: its name in reports.
        nodes: Hydra node of each group of `KINDS`, from the scenario or else from the comparison; the router may be
            None.
        names: short name of each node, "" for None.
        trainer: values of `TRAINER_KEYS` that the scenario changes.
        refit: whether it is trained again on training and validation samples, with what was chosen before.
    """

    name: str
    title: str
    nodes: dict[str, dict[str, Any] | None]
    names: dict[str, str]
    trainer: dict[str, Any] = field(default_factory=dict)
    refit: bool = False

    @property
    def chosen(self) -> "Scenario":
        """The scenario before it is trained again."""
        return replace(self, refit=False)

    @property
    def recipe(self) -> dict[str, Any]:
        """The nodes of the groups in `RECIPE`."""
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
    """Makes a scenario from the content of its file.

    Args:
        content: title, partitioner, decision and optionally trainer, refit and other groups of `KINDS`. The value of a
            group is the name of a file, a node with `_target_`, `selected` (the choice of the command line), or null.

    Raises:
        InputError: an unknown or missing key.
        InstantiationException: an argument that a constructor does not take, or a value it refuses.
    """
    known = ("title", *KINDS, "trainer", "refit")
    unknown, missing = set(content) - set(known), {"title", "partitioner", "decision"} - set(content)
    if unknown or missing:
        wrong = f"unknown keys {sorted(unknown)}" if unknown else f"no {sorted(missing)}"
        raise InputError(
            f"scenario {name} with {wrong}", f"keys of {', '.join(known)}", f"correct configs/scenario/{name}.yaml"
        )
    nodes = {group: node_of(group, content, cfg) for group in KINDS}
    names = {group: short_name(group, node) if node else "" for group, node in nodes.items()}
    check_refit(refit := content.get("refit"))
    trainer = _trainer(name, content.get("trainer", {}), cfg)
    scenario = Scenario(name, content["title"], nodes, names, trainer, refit == TRAIN_VAL)
    for group, node in nodes.items():  # built once, so that a wrong argument is found before anything is written
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


def check_refit(value: Any) -> None:
    """Raises InputError if it is not a value of the key refit."""
    if value not in (None, TRAIN_VAL):
        raise InputError(f"refit = {value}", f"{TRAIN_VAL} or null", f"write refit={TRAIN_VAL}, or leave it out")


def _try_out(nodes: dict[str, Any]) -> None:
    # Otherwise they are built with the first sub-network, after the run has begun.
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
    """The node of a group in a scenario's content, or else of the command line; None for null."""
    value = content.get(group, None if group == "router" else "selected")
    if isinstance(value, str):
        value = cfg[group] if value == "selected" else load_node(group, value)
    return None if value is None else OmegaConf.to_container(value, resolve=True)
