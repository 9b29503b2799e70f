# SPDX-License-Identifier: MIT
"""Who takes part in a comparison: scenarios, scenarios with something exchanged, and baselines.

A name is that of a file in configs/scenario or configs/baseline, or a row by override (see `rows`). `group=*` in a row
stands for every file of the group. "all" is every scenario, every exchange of one choice, every baseline.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, nearest
from experiments.coordination.rows import check_known, make_row, split_row
from experiments.coordination.scenarios import KINDS, Scenario, files, load_node, short_name
from lightning_modules.baselines.base import Baseline

ALL = ("*", "partitioner=*", "loss=*", "init=*", "router=*", "decision=*")


@dataclass(frozen=True)
class Rival:
    """A baseline as a row of the comparison: the name of its file, its Hydra node, and what is built from it."""

    name: str
    node: dict[str, Any]
    baseline: Baseline


@dataclass(frozen=True)
class Lineup:
    """What is compared.

    Attributes:
        scenarios, rivals: in the order named.
        missing: why a name cannot take part here; it gets a row without numbers.
    """

    scenarios: list[Scenario]
    rivals: list[Rival]
    missing: dict[str, str]

    def __len__(self) -> int:
        return len(self.scenarios) + len(self.rivals) + len(self.missing)


def load_lineup(names: Any, cfg: DictConfig) -> Lineup:
    """Builds everything that takes part, before anything is written.

    Args:
        names: a name, a list of names, or "all".

    Raises:
        InputError: an unknown name, one named twice, none, or a file that cannot be used.
    """
    names = list(ALL) if names == "all" else [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"scenarios = {names}", "a list without repetitions", "name each scenario once")
    lineup = Lineup([], [], {})
    for name, asked in expanded(names).items():
        try:
            part = _load(name, cfg)
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            lineup.missing[name] = f"package {error.__cause__.name} is not installed"
            continue
        if isinstance(part, Rival):
            lineup.rivals.append(part)
        elif asked or not (_without_clusters(part) or any(_same(part, other) for other in lineup.scenarios)):
            lineup.scenarios.append(part)
    return lineup


def expanded(names: list[str]) -> dict[str, bool]:
    """Names without stars, in order, and whether each was asked for by its own name.

    Args:
        names: as in `load_lineup`; a lone star stands for all scenarios and baselines.

    Raises:
        InputError: a group that cannot be exchanged.
    """
    found: dict[str, bool] = {}
    for name in names:
        if name == "*":
            found |= dict.fromkeys([*files("scenario"), *files("baseline")], True)
            continue
        parts = [
            [f"{part[:-1]}{file}" for file in _every(part)] if part.endswith("=*") else [part]
            for part in split_row(str(name))
        ]
        for one in product(*parts):
            found.setdefault(",".join(one), "*" not in name)
    return found


def for_data(lineup: Lineup, cfg: DictConfig, embedding_set: EmbeddingSet) -> Lineup:
    """The lineup without scenarios whose own loss needs what the data do not have."""
    selected = OmegaConf.to_container(cfg.loss, resolve=True)
    reason = "the embeddings are normalised, the loss needs their lengths"
    unable = {
        scenario.name: reason for scenario in lineup.scenarios
        if embedding_set.meta.get("normalised") and scenario.nodes["loss"] != selected
        and instantiate(scenario.nodes["loss"]).needs_raw_embeddings
    }  # fmt: skip
    able = [scenario for scenario in lineup.scenarios if scenario.name not in unable]
    return replace(lineup, scenarios=able, missing={**lineup.missing, **unable})


def _every(part: str) -> list[str]:
    group = part.removesuffix("=*")
    check_known(f"scenario {part!r}", group, KINDS)
    return files(group)


def with_partitioner(scenario: Scenario, node: dict[str, Any]) -> Scenario:
    """A scenario on another partition."""
    names = {**scenario.names, "partitioner": short_name("partitioner", node)}
    return replace(scenario, nodes={**scenario.nodes, "partitioner": node}, names=names)


def _load(name: str, cfg: DictConfig) -> Scenario | Rival:
    if name in files("baseline"):
        node = OmegaConf.to_container(load_node("baseline", name), resolve=True)
        return Rival(name, node, instantiate(node))
    known = [*files("scenario"), *files("baseline")]
    if "=" not in name and name not in known:
        raise InputError(
            f"scenario {name!r}", f"one of {', '.join(known)}; overrides such as loss.margin=0.3; or all",
            nearest(name, known, f"correct the name or add {name}.yaml"),
        )  # fmt: skip
    return make_row(name, cfg)


def _without_clusters(scenario: Scenario) -> bool:
    """Whether it is no distribution or the nearest class mean under another name."""
    alone = scenario.nodes["partitioner"]["_target_"].endswith("SinglePartitioner")
    return alone or not (scenario.decision.needs_heads or scenario.decision.needs_route)


def _same(one: Scenario, other: Scenario) -> bool:
    return one.nodes == other.nodes and one.trainer == other.trainer
