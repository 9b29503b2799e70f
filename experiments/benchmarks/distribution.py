# SPDX-License-Identifier: MIT
"""Training of many sub-networks: against one network, by several workers and devices, and its overhead."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.embedding_set import EmbeddingSet
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.measurement import Skipped, measure_in_turn, record, seconds
from experiments.benchmarks.our_training import epoch_seconds, our_training, training_seconds
from experiments.benchmarks.synthetic_data import synthetic_set
from experiments.comparison.data import subnets_for
from experiments.training.build import build
from experiments.training.cluster_data import JobData
from experiments.training.fit import STEPS_PER_CALL
from experiments.training.job import Job
from lightning_modules.bundled_steps import bundle


@dataclass
class DistributionBenchmark(Group):
    """Seconds of one epoch by the same code: m sub-networks serially against one network over all identities.

    m is the paper's, N / 2000. With equal clusters (random) the products shrink by m exactly. The paper's k-means
    clusters differ in size, and the serial time is that of the sum of squares.
    """

    n_identities: list[int]
    partitioners: Sequence[str] = ("random", "kmeans")  # files of configs/partitioner
    batch: int = 256
    images: int = 10  # of each identity; about 60 % of them train
    epochs: int = 3  # of each repeat, of which the median counts
    repeats: int = 2
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        how = {"batch_size": self.batch, "max_epochs": self.epochs}
        for n in self.n_identities:
            (m,) = subnets_for([n], "auto")
            data = synthetic_set(bench, n, self.images, self.dim)
            one = partial(epoch_seconds, bench, data, 1, "single", **how)
            for partitioner in self.partitioners:
                many = partial(epoch_seconds, bench, data, m, partitioner, **how)
                taken = measure_in_turn({"ours": many, "theirs": one}, self.repeats, bench.device)
                made = record(
                    f"epoch of {m} sub-networks, serial, {partitioner}", n, self.batch, bench.cfg.trainer.matmul,
                    "no_distribution", "s", taken["ours"], taken["theirs"], n_subnets=m,
                )  # fmt: skip
                yield {**made, "ratio_by_m": made["ratio"] / m}


@dataclass
class OverheadBenchmark(Group):
    """Seconds on the CPU with one thread per process: in_process against bare loops, processes against in_process.

    Bare: the same sub-networks, batches and optimiser in a plain loop of Lightning fits, without jobs, checkpoints,
    records and progress.
    """

    n_identities: int = 10_000
    n_subnets: int = 5
    epochs: int = 3
    repeats: int = 3
    images: int = 30
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        torch.set_num_threads(1)
        workers, trainer = min(2, os.cpu_count() or 1), bench.cfg.trainer
        data = synthetic_set(bench, self.n_identities, self.images, self.dim)
        how = {
            "max_epochs": self.epochs, "check_val_every_n_epoch": 1, "checkpoint_every_n_epochs": 1,
            "accelerator": "cpu", "threads": 1,
        }  # fmt: skip
        ours = partial(training_seconds, bench, data, self.n_subnets, "kmeans", **how)
        several = partial(ours, launcher="processes", options={"workers": workers, "threads": 1})
        sides = {"bare": partial(self._bare, bench, data, how), "in_process": ours, "processes": several}
        sides["bare"]()  # pays for imports and allocations
        bare, single, double = measure_in_turn(sides, self.repeats, memory=False).values()
        common = self.n_identities // self.n_subnets, trainer.batch_size, trainer.matmul
        yield record("coordinator, in_process", *common, "bare loops", "s", single, bare)
        name = f"coordinator, {workers} processes of 1 thread"
        yield record(name, *common, "in_process, 1 thread", "s", double, single)

    def _bare(self, bench: Bench, data: EmbeddingSet, how: dict[str, Any]) -> float:
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        options: dict[str, Any] = dict.fromkeys((*off, "use_distributed_sampler"), False) | {"num_sanity_val_steps": 0}

        def fit(jobs: Sequence[Job]) -> None:
            for job in jobs:
                module, served = build(job, JobData().open(job))
                bundle(module, served, STEPS_PER_CALL)
                pl.Trainer(max_epochs=self.epochs, accelerator="cpu", **options).fit(module, datamodule=served)

        with our_training(bench, data, self.n_subnets, "kmeans", **how) as ours:
            jobs = ours.coordinator.jobs(ours.cell, ours.scenario)
            return seconds(lambda: fit(jobs))


@dataclass
class OnGpu(Group):
    """Another group, skipped with the reason if there are fewer GPUs; `gpus=0` lets it run on a CPU too."""

    group: Group
    name: str
    gpus: int = 1

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
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
        data = synthetic_set(bench, self.classes * self.n_subnets, self.images, self.dim)
        key, trainer = "per_gpu" if bench.device == "cuda" else "workers", bench.cfg.trainer
        how = {"launcher": "processes", "max_epochs": self.epochs}
        train = partial(training_seconds, bench, data, self.n_subnets, "random", **how)
        sides = {str(k): partial(train, options={key: k}) for k in (1, *self.per_gpu)}
        taken = measure_in_turn(sides, self.repeats, bench.device, memory=False)
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
        for classes in self.classes:
            data = synthetic_set(bench, classes, self.images, self.dim)
            for batch in self.batches:
                how: dict[str, Any] = {"steps": self.steps, "batch_size": batch, "max_epochs": self.epochs}
                one = partial(epoch_seconds, bench, data, launcher="processes", **how)
                two = {name: partial(one, devices=2, strategy=name) for name in self.strategies}
                taken = measure_in_turn({"one": one, **two}, self.repeats, bench.device, memory=False)
                for name in self.strategies:
                    common = (f"head on two devices, {name}", classes, batch, bench.cfg.trainer.matmul)
                    yield record(*common, "one device", "s", taken[name], taken["one"])
