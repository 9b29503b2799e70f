# SPDX-License-Identifier: MIT
"""What only a GPU can answer: how many workers should share it, and what a second one gains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.our_training import our_training, synthetic_set, training_seconds
from experiments.benchmarks.pairing import Skipped, Taken, measure_in_turn, record
from experiments.coordination.evaluation import training_columns


@dataclass
class OnGpu(Group):
    """Another group, of that name, skipped with the reason where there are fewer GPUs; 0 lets it run on a CPU too."""

    group: Group
    name: str
    gpus: int = 1

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        found = torch.cuda.device_count() if bench.device == "cuda" else 0
        if found >= self.gpus:
            yield from self.group.measure(bench)
        else:
            reason = f"GPUs found: {found}, needed: {self.gpus} (trainer.accelerator={bench.cfg.trainer.accelerator})"
            yield Skipped(self.name, "all", reason)


@dataclass
class WorkersBenchmark(Group):
    """Wall clock of training equal sub-networks by k workers per GPU (k in all without one) against one worker."""

    per_gpu: Sequence[int] = (2, 4, 8, 16)
    n_subnets: int = 16
    classes: int = 2000
    images: int = 10
    epochs: int = 50
    repeats: int = 3
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        data = synthetic_set(bench, self.classes * self.n_subnets, self.images, self.dim)
        key = "per_gpu" if bench.device == "cuda" else "workers"
        train = partial(training_seconds, bench, data, self.n_subnets, "random", "processes", max_epochs=self.epochs)
        trainer, sides = bench.cfg.trainer, {str(k): partial(train, {key: k}) for k in (1, *self.per_gpu)}
        taken = {k: Taken(one.values, 0) for k, one in measure_in_turn(sides, self.repeats, bench.device).items()}
        for k in map(str, self.per_gpu):
            common = (f"{self.n_subnets} sub-networks, {k} workers", self.classes, trainer.batch_size, trainer.matmul)
            yield record(*common, "one worker", "s", taken[k], taken["1"])


@dataclass
class DevicesBenchmark(Group):
    """Seconds of an epoch of one head on two devices against one, by each strategy of `trainer.strategy`."""

    classes: Sequence[int]
    batches: Sequence[int] = (1024, 4096)
    strategies: Sequence[str] = ("ddp", "model_parallel")
    steps: int | None = 50
    images: int = 4
    epochs: int = 3
    repeats: int = 3
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        for classes in self.classes:
            data = synthetic_set(bench, classes, self.images, self.dim)
            for batch in self.batches:
                how: dict[str, Any] = {"steps": self.steps, "batch_size": batch, "max_epochs": self.epochs}
                two = {name: {**how, "devices": 2, "strategy": name} for name in self.strategies}
                every: dict[str, dict[str, Any]] = {"one": how, **two}
                sides = {name: partial(_epoch_seconds, bench, data, each) for name, each in every.items()}
                taken = {name: Taken(t.values, 0) for name, t in measure_in_turn(sides, self.repeats).items()}
                for name in self.strategies:
                    common = (f"head on two devices, {name}", classes, batch, bench.cfg.trainer.matmul)
                    yield record(*common, "one device", "s", taken[name], taken["one"])


def _epoch_seconds(bench: Bench, data, how: dict[str, Any]) -> float:
    with our_training(bench, data, launcher="processes", **how) as ours:
        return training_columns(ours.records())["epoch_seconds_serial"]
