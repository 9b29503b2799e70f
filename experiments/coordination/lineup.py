# SPDX-License-Identifier: MIT
"""Who takes part in a comparison: scenarios, the proposal with one choice exchanged, and baselines.

A name is that of a file in configs/scenario or configs/baseline; or `group=file`, the scenario `clustered_nearest` with
that file of the group (loss, partitioner, router, decision or init) in place of its own. "all" is every one of them.
"""

from dataclasses import dataclass, replace
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.scenarios import Scenario, load_node, make_scenario, short_name
from lightning_modules.baselines.base import Baseline

PROPOSAL = "clustered_nearest"
EXCHANGED = ("partitioner", "loss", "init", "router", "decision")
REPEATED = ("partitioner=single", "decision=nearest_mean")  # no_distribution and knn once more


@dataclass(frozen=True)
class Rival:
    """A baseline as a row of the comparison.

    Attributes:
        name: of its file.
        node: Hydra node.
        baseline: built from it.
    """

    name: str
    node: dict[str, Any]
    baseline: Baseline


@dataclass(frozen=True)
class Lineup:
    """What is compared.

    Attributes:
        scenarios: in the order named.
        rivals: baselines in the order named.
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
        cfg: the composed configuration.

    Raises:
        InputError: an unknown name, one named twice, none, or a file that cannot be used.
    """
    every = names == "all"
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"scenarios = {names}", "a list without repetitions", "name each scenario once")
    lineup = Lineup([], [], {})
    for name in all_names() if every else names:
        try:
            part = _load(name, cfg)
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            lineup.missing[name] = f"package {error.__cause__.name} is not installed"
            continue
        if isinstance(part, Rival):
            lineup.rivals.append(part)
        elif not every or "=" not in name or not any(_same(part, other) for other in lineup.scenarios):
            lineup.scenarios.append(part)
    return lineup


def all_names() -> list[str]:
    """Every scenario, every file of the groups in `EXCHANGED` in the proposal, every baseline."""
    exchanged = [f"{group}={name}" for group in EXCHANGED for name in _files(group)]
    return [*_files("scenario"), *(name for name in exchanged if name not in REPEATED), *_files("baseline")]


def for_data(lineup: Lineup, cfg: DictConfig, embedding_set: EmbeddingSet) -> Lineup:
    """The lineup without scenarios whose own loss needs what the data do not have.

    Args:
        lineup: see `load_lineup`.
        cfg: the composed configuration, whose loss is nobody's own.
        embedding_set: the data.
    """
    selected = OmegaConf.to_container(cfg.loss, resolve=True)
    reason = "the embeddings are normalised, the loss needs their lengths"
    unable = {
        scenario.name: reason for scenario in lineup.scenarios
        if embedding_set.meta.get("normalised") and scenario.loss != selected
        and instantiate(scenario.loss).needs_raw_embeddings
    }  # fmt: skip
    able = [scenario for scenario in lineup.scenarios if scenario.name not in unable]
    return replace(lineup, scenarios=able, missing={**lineup.missing, **unable})


def with_partitioner(scenario: Scenario, node: dict[str, Any]) -> Scenario:
    """A scenario on another partition.

    Args:
        scenario: the rest.
        node: Hydra node of the partitioner.
    """
    names = {**scenario.names, "partitioner": short_name("partitioner", node)}
    return replace(scenario, partitioner=node, names=names)


def _files(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def _load(name: str, cfg: DictConfig) -> Scenario | Rival:
    group, exchanged, file = name.partition("=")
    if exchanged:
        if group not in EXCHANGED:
            raise InputError(f"scenario {name!r}", f"{'=, '.join(EXCHANGED)}=", "correct the group")
        load_node(group, file)
        content = OmegaConf.merge(load_node("scenario", PROPOSAL), {"title": f"proposal, {name}", group: file})
        return make_scenario(name, content, cfg)
    if name in _files("baseline"):
        node = OmegaConf.to_container(load_node("baseline", name), resolve=True)
        return Rival(name, node, instantiate(node))
    if name not in _files("scenario"):
        known = ", ".join([*_files("scenario"), *_files("baseline")])
        raise InputError(
            f"scenario {name!r}", f"one of {known}; {'=, '.join(EXCHANGED)}= and a file of that group; or all",
            f"correct the name or add {name}.yaml",
        )  # fmt: skip
    return make_scenario(name, load_node("scenario", name), cfg)


def _same(one: Scenario, other: Scenario) -> bool:
    return all(
        getattr(one, part) == getattr(other, part)
        for part in ("partitioner", "router_node", "decision_node", "loss", "init", "optimizer", "active_classes")
    )
