# SPDX-License-Identifier: MIT
"""The keys of experiments.benchmark, and the interface of a group of comparisons."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

if TYPE_CHECKING:  # --help needs none of what it imports
    from experiments.benchmarks.measurement import Skipped


@dataclass
class BenchmarkConfig:
    """experiments.benchmark"""

    suite: Any = MISSING  # configs/suite/*.yaml: groups and their sizes
    only: list[str] | None = None  # groups of the suite to measure; None takes all
    threads: int | None = None  # CPU threads of torch and faiss; None takes all cores
    loss: Any = MISSING
    init: Any = MISSING
    optimizer: Any = MISSING
    active_classes: Any = MISSING
    head: Any = MISSING
    scheduler: Any = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0  # of synthetic data, first weights and batch order
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of suite and time
    runs_dir: str = "runs"


@dataclass(frozen=True)
class Bench:
    """What a group of comparisons works with."""

    cfg: DictConfig
    folder: Path  # for data and sub-networks; removed when the group is done
    device: str  # "cpu" or "cuda"


class Group(ABC):
    """A group of comparisons. A suite sets its sizes and repeats by the arguments of its constructor."""

    @abstractmethod
    def measure(self, bench: Bench) -> "Iterator[dict[str, Any] | Skipped]":
        """Measures one comparison after the other: yields records (see `measurement.record`) or reasons."""
