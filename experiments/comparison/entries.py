# SPDX-License-Identifier: MIT
"""The entries of a comparison: scenarios, scenarios with changes, and baselines.

An entry is named by a file in configs/scenario or configs/baseline, or by a row (see `rows`). `group=*` in a row means
every file of the group. "all" means every scenario, every scenario with one choice changed, and every baseline.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from experiments.command_line.choices import files, load_node, short_name
from experiments.comparison.data import check_names
from experiments.comparison.rows import check_known, scenario_of_row, split_row
from experiments.comparison.scenarios import KINDS, TRAIN_VAL, Scenario
from lightning_modules.baselines.base import Baseline

ALL = ("*", "partitioner=*", "loss=*", "init=*", "router=*", "decision=*")


@dataclass(frozen=True)
class BaselineEntry:
    """A baseline: the name of its file, its Hydra node, and the object built from it."""

    name: str
    node: dict[str, Any]
    baseline: Baseline


@dataclass(frozen=True)
class Entries:
    """The entries of a comparison.

    Attributes:
        missing: why an entry cannot take part, by name; it has a row without numbers.
    """

    scenarios: list[Scenario]
    baselines: list[BaselineEntry]
    missing: dict[str, str]

    def __len__(self) -> int:
        return len(self.scenarios) + len(self.baselines) + len(self.missing)


def load_entries(names: Any, cfg: DictConfig) -> Entries:
    """Builds all entries, before anything is written.

    Args:
        names: a name, a list of names, or "all".

    Raises:
        InputError: an unknown name, a name twice, no name, or a file that cannot be used.
    """
    names = list(ALL) if names == "all" else [names] if isinstance(names, str) else list(names)
    check_names(names)
    entries = Entries([], [], {})
    for name, asked in expand_names(names).items():
        try:
            part = _load(name, cfg)
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            entries.missing[name] = f"package {error.__cause__.name} is not installed"
            continue
        if isinstance(part, BaselineEntry):
            entries.baselines.append(part)
        elif asked or not (_without_clusters(part) or any(_same(part, other) for other in entries.scenarios)):
            entries.scenarios.append(part)
            if cfg.refit and not part.refit:
                entries.scenarios.append(scenario_of_row(f"{name},refit={TRAIN_VAL}", cfg))
    return entries


def expand_names(names: list[str]) -> dict[str, bool]:
    """Names without stars, in order, and whether each was written without a star.

    Args:
        names: rows; a lone star means all scenarios and baselines.

    Raises:
        InputError: a star for a group that a scenario does not have.
    """
    found: dict[str, bool] = {}
    for name in names:
        if name == "*":
            found |= dict.fromkeys([*files("scenario"), *files("baseline")], True)
            continue
        choices: list[list[str]] = []
        for part in split_row(str(name)):
            group = part.removesuffix("=*")
            if group == part:
                choices.append([part])
            else:
                check_known(f"scenario {part!r}", group, KINDS)
                choices.append([f"{group}={file}" for file in files(group)])
        for one in product(*choices):
            found.setdefault(",".join(one), "*" not in name)
    return found


def usable_entries(entries: Entries, cfg: DictConfig, embedding_set: EmbeddingSet) -> Entries:
    """The entries; scenarios that cannot use the embeddings or the images of `cfg.evaluate` go to `missing`."""
    selected = OmegaConf.to_container(cfg.loss, resolve=True)
    reason = "the embeddings are normalised, the loss needs their lengths"
    unable = {
        scenario.name: reason for scenario in entries.scenarios
        if embedding_set.meta.get("normalised") and scenario.nodes["loss"] != selected
        and instantiate(scenario.nodes["loss"]).needs_raw_embeddings
    }  # fmt: skip
    if cfg.evaluate == "validation":
        unable |= {one.name: "it is trained on the validation images" for one in entries.scenarios if one.refit}
    able = [scenario for scenario in entries.scenarios if scenario.name not in unable]
    return replace(entries, scenarios=able, missing={**entries.missing, **unable})


def with_partitioner(scenario: Scenario, node: dict[str, Any]) -> Scenario:
    """The scenario with another partitioner."""
    names = {**scenario.names, "partitioner": short_name("partitioner", node)}
    return replace(scenario, nodes={**scenario.nodes, "partitioner": node}, names=names)


def _load(name: str, cfg: DictConfig) -> Scenario | BaselineEntry:
    if name in files("baseline"):
        node = OmegaConf.to_container(load_node("baseline", name), resolve=True)
        return BaselineEntry(name, node, instantiate(node))
    return scenario_of_row(name, cfg)


def _without_clusters(scenario: Scenario) -> bool:
    # Then it repeats the scenario without clusters, or the nearest class mean.
    alone = scenario.nodes["partitioner"]["_target_"].endswith("SinglePartitioner")
    return alone or not (scenario.decision.needs_heads or scenario.decision.needs_route)


def _same(one: Scenario, other: Scenario) -> bool:
    return one.nodes == other.nodes and one.trainer == other.trainer
