# SPDX-License-Identifier: MIT
"""Training of one head: ours against other ways on the same data, and against the limits of the machine."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import IndexBatches
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.splits import Split
from experiments.benchmarks.baselines import BASELINES, LIMITS, Training, train_pml
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.measurement import Measure, Skipped, measure_in_turn, record
from experiments.benchmarks.our_training import OurTraining, our_training, samples_per_second
from experiments.benchmarks.synthetic_data import synthetic_set
from experiments.training.build import build
from experiments.training.cluster_data import JobData
from lightning_modules.heads.linear import LinearHead


@dataclass(frozen=True)
class Size:
    """One head."""

    classes: int
    batch: int
    images: int = 10  # of each identity; about 60 % of them train
    epochs: int = 3  # of each repeat; the first counts only if it is the only one
    steps: int | None = None  # of an epoch, None for all samples
    precisions: tuple = ("medium",)  # of float32 products: one for both sides, or pairs (ours, the baseline's)
    against: tuple = ("lightning_pml", "insightface", *LIMITS)  # some of `BASELINES`
    accuracy_epochs: int = 0  # before the accuracies of ours and lightning_pml are compared; 0 leaves it out


class HeadBenchmark(Group):
    """Samples per second of training a head, as a fraction of the machine's matrix product and against baselines.

    Args:
        sizes: keyword arguments of `Size`.
    """

    def __init__(self, sizes: list[dict[str, Any]], repeats: int = 3, dim: int = 512):
        self.sizes, self.repeats, self.dim = [Size(**size) for size in sizes], repeats, dim
        if unknown := {name for size in self.sizes for name in size.against} - set(BASELINES):
            raise InputError(f"against = {sorted(unknown)}", f"some of {', '.join(BASELINES)}", "correct the suite")

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        for size in self.sizes:
            if "lightning_pml" in size.against and not find_spec("pytorch_metric_learning"):
                reason = "pytorch-metric-learning is not installed; cure: pip install clusterface[metric_learning]"
                yield Skipped(f"head of {size.classes} classes, B = {size.batch}", "lightning_pml", reason)
                size = replace(size, against=tuple(name for name in size.against if name != "lightning_pml"))
            for precision in size.precisions:
                ours, theirs = (precision, precision) if isinstance(precision, str) else precision
                yield from self._size(bench, size, ours, theirs)

    def _size(self, bench: Bench, size: Size, precision: str, their_precision: str) -> Iterator[dict[str, Any]]:
        data = synthetic_set(bench, size.classes, size.images, self.dim)
        how: dict[str, Any] = {"max_epochs": size.epochs, "batch_size": size.batch, "matmul": precision}
        # A limit is that of our own precision.
        against = [name for name in size.against if precision == their_precision or name not in LIMITS]
        with our_training(bench, data, steps=size.steps, **how) as ours:
            rows = tensors(data.embeddings, ours.coordinator.data(ours.cell).splits.train)
            limited = size.classes, size.batch, size.epochs, size.steps
            training = Training(*rows, *limited, their_precision, bench.device, bench.cfg.seed)
            product = partial(BASELINES["gemm"], replace(training, precision=precision))
            sides: dict[str, Measure] = {"ours": partial(_speed, ours), "gemm": product}
            sides |= {name: partial(BASELINES[name], training) for name in against if name != "gemm"}
            taken = measure_in_turn(sides, self.repeats, bench.device)
        accuracy = {}
        if size.accuracy_epochs and "lightning_pml" in against:
            longer = replace(training, epochs=size.accuracy_epochs, steps=None)
            with our_training(bench, data, **{**how, "max_epochs": size.accuracy_epochs}) as ours:
                accuracy = _accuracy(ours, data, longer)
        for name in against:
            yield record(
                "head", size.classes, size.batch, " against ".join(dict.fromkeys((precision, their_precision))), name,
                "samples/s", taken["ours"], taken[name], product_fraction=taken["ours"].median / taken["gemm"].median,
                **(accuracy if name == "lightning_pml" else {}),
            )  # fmt: skip


def _accuracy(ours: OurTraining, data: EmbeddingSet, training: Training) -> dict[str, Any]:
    ours.records()
    (job,) = ours.coordinator.jobs(ours.cell, ours.scenario)
    module, served = build(job, JobData().open(job))
    batches = served.train_dataloader()
    assert isinstance(module.head, LinearHead) and isinstance(batches, IndexBatches)
    _, head = train_pml(training, (module.head.weight().detach(), batches))
    test = ours.coordinator.data(ours.cell).splits.test
    both = {"accuracy": ours.accuracy(), "theirs_accuracy": head.accuracy(*tensors(data.embeddings, test))}
    return {"epochs": training.epochs, **both, "accuracy_probes": len(test)}


def _speed(training: OurTraining) -> float:
    return samples_per_second(training.records()[0]["history"])


def tensors(embeddings_ND: np.ndarray, split: Split) -> tuple[Tensor, Tensor]:
    """Samples of a split: (N, D) float32 unit vectors and (N,) int64 labels."""
    rows = torch.from_numpy(normalise_rows(embeddings_ND[split.rows]))
    return rows, torch.from_numpy(split.labels.astype(np.int64))
