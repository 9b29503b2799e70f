# SPDX-License-Identifier: MIT
"""What the coordinator costs over the bare training loops, and what worker processes gain over one process.

Bare: the same sub-networks, batches and optimiser in a plain loop of Lightning fits, without jobs, checkpoints, records
and progress. All on the CPU with one thread per process.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.embedding_set import EmbeddingSet
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.our_training import our_training, synthetic_set, training_seconds
from experiments.benchmarks.pairing import Taken, measure_in_turn, record
from experiments.coordination.networks import Enrolled, network
from experiments.training.fit import STEPS_PER_CALL
from lightning_modules.bundled_steps import bundle

IMAGES, DIM = 30, 512  # of an identity; of an embedding


@dataclass
class OverheadBenchmark(Group):
    """Two measurements: in_process against bare loops, and processes against in_process."""

    n_identities: int = 10_000
    n_subnets: int = 5
    epochs: int = 3
    repeats: int = 3

    def measure(self, bench: Bench) -> Iterator[dict]:
        """See `Group.measure`."""
        torch.set_num_threads(1)
        data, workers = synthetic_set(bench, self.n_identities, IMAGES, DIM), min(2, os.cpu_count() or 1)
        how = {
            "max_epochs": self.epochs, "check_val_every_n_epoch": 1, "checkpoint_every_n_epochs": 1,
            "accelerator": "cpu", "threads": 1,
        }  # fmt: skip
        ours = partial(training_seconds, bench, data, self.n_subnets, "kmeans")
        ways = {
            "bare": partial(_bare, bench, data, self.n_subnets, how),
            "in_process": partial(ours, "in_process", {}, **how),
            "processes": partial(ours, "processes", {"workers": workers, "threads": 1}, **how),
        }
        ways["bare"]()  # pays for imports and allocations
        # What workers hold is not seen from here.
        taken = {way: Taken(one.values, 0) for way, one in measure_in_turn(ways, self.repeats).items()}
        processes = f"coordinator, {workers} processes of 1 thread"
        for name, way, against, other in (
            ("coordinator, in_process", "in_process", "bare loops", "bare"),
            (processes, "processes", "in_process, 1 thread", "in_process"),
        ):
            classes, trainer = self.n_identities // self.n_subnets, bench.cfg.trainer
            yield record(name, classes, trainer.batch_size, trainer.matmul, against, "s", taken[way], taken[other])


def _bare(bench: Bench, embedding_set: EmbeddingSet, n_subnets: int, how: dict[str, Any]) -> float:
    with our_training(bench, embedding_set, n_subnets, "kmeans", **how) as ours:
        jobs = ours.coordinator.jobs(ours.cell, ours.scenario)
        started = time.perf_counter()
        for job in jobs:
            module, data = network(job, Enrolled.of(job))
            bundle(module, data, STEPS_PER_CALL)
            trainer = pl.Trainer(
                max_epochs=how["max_epochs"], accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                use_distributed_sampler=False,
            )  # fmt: skip
            trainer.fit(module, datamodule=data)
        return time.perf_counter() - started
