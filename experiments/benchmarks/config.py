# SPDX-License-Identifier: MIT
"""The keys of experiments.benchmark, and what every group of comparisons is given."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from datamodules.errors import InputError

if TYPE_CHECKING:  # --help needs none of what it imports
    from experiments.benchmarks.pairing import Skipped


@dataclass
class BenchmarkConfig:
    """experiments.benchmark"""

    suite: Any = MISSING  # configs/suite/*.yaml: which groups, at which sizes
    only: list[str] | None = None  # groups of the suite to measure; None takes all
    threads: int | None = None  # CPU threads of torch and faiss; None takes the cores there are
    loss: Any = MISSING
    init: Any = MISSING
    optimizer: Any = MISSING
    active_classes: Any = MISSING
    head: Any = MISSING
    scheduler: Any = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0  # of synthetic data, first weights and batch order
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of suite and time
    runs_dir: str = "runs"  # where run folders lie


@dataclass(frozen=True)
class Bench:
    """What a group of comparisons works with.

    Attributes:
        cfg: the composed configuration.
        folder: for data and sub-networks; removed when the group is done.
        device: "cpu" or "cuda".
    """

    cfg: DictConfig
    folder: Path
    device: str


class Group(ABC):
    """A group of comparisons; sizes and repeats in its constructor, chosen by a suite."""

    @abstractmethod
    def measure(self, bench: Bench) -> "Iterator[dict[str, Any] | Skipped]":
        """Measures one comparison after the other: records as of `pairing.record`, or what was skipped and why."""


def chosen_groups(cfg: DictConfig) -> list[str]:
    """The groups of the suite that shall be measured, in the suite's order.

    Raises:
        InputError: `only` names none, or one that the suite does not have.
    """
    known = list(cfg.suite)
    only = known if cfg.only is None else list(cfg.only)
    if not only or not set(only) <= set(known):
        raise InputError(f"only = {only}", f"some of {', '.join(known)}", "correct only=")
    return [name for name in known if name in only]
