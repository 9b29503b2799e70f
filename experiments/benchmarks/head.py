# SPDX-License-Identifier: MIT
"""Training of one head: ours against other ways on the same data, and against what the machine could do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import IndexBatches
from datamodules.errors import InputError
from datamodules.splits import Split
from experiments.benchmarks import rivals
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.our_training import OurTraining, our_training, samples_per_second, synthetic_set
from experiments.benchmarks.pairing import Skipped, measure_in_turn, record
from experiments.coordination.networks import Enrolled, network
from lightning_modules.heads.linear import LinearHead

LIMITS = ("gemm", "memory")
RIVALS = ("lightning_pml", "insightface", "compiled", *LIMITS)
FILL_SECONDS = 0.5


@dataclass(frozen=True)
class Size:
    """One head.

    Attributes:
        classes: C.
        batch: B.
        images: of each identity; about 60 % of them train.
        epochs: of each repeat; the first does not count where there are more.
        steps: of an epoch, None for all samples.
        precisions: pairs (ours, theirs) of float32 product precision; one entry states both.
        against: some of `RIVALS`; "compiled" is ours with trainer.compile=true.
        accuracy_epochs: epochs after which the accuracy of ours and lightning_pml is compared; 0 leaves it out.
    """

    classes: int
    batch: int
    images: int = 10
    epochs: int = 3
    steps: int | None = None
    precisions: tuple = ("medium",)
    against: tuple = ("lightning_pml", "insightface", *LIMITS)
    accuracy_epochs: int = 0


class HeadBenchmark(Group):
    """Samples per second of training a head of C classes; `sizes` are keyword arguments of `Size`."""

    def __init__(self, sizes: list[dict[str, Any]], repeats: int = 3, dim: int = 512):
        self.sizes, self.repeats, self.dim = [Size(**size) for size in sizes], repeats, dim
        if unknown := {rival for size in self.sizes for rival in size.against} - set(RIVALS):
            raise InputError(f"against = {sorted(unknown)}", f"some of {', '.join(RIVALS)}", "correct the suite")

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`; all rivals of a size and a precision run in turn with ours."""
        for size in self.sizes:
            installed = find_spec("pytorch_metric_learning")
            against = [rival for rival in size.against if rival != "lightning_pml" or installed]
            if len(against) < len(size.against):
                reason = "pytorch-metric-learning is not installed; cure: pip install clusterface[metric_learning]"
                yield Skipped(f"head of {size.classes} classes, B = {size.batch}", "lightning_pml", reason)
            for precision in size.precisions:
                pair = (precision, precision) if isinstance(precision, str) else tuple(precision)
                # A limit of the machine is that of our own precision.
                here = against if pair[0] == pair[1] else [rival for rival in against if rival not in LIMITS]
                yield from self._size(bench, size, here, pair)

    def _size(
        self, bench: Bench, size: Size, against: list[str], precision: tuple[str, str]
    ) -> Iterator[dict[str, Any]]:
        data = synthetic_set(bench, size.classes, size.images, self.dim)
        settings: dict[str, Any] = {"batch_size": size.batch, "matmul": precision[0]}
        how: dict[str, Any] = {"steps": size.steps, "max_epochs": size.epochs, **settings}
        with our_training(bench, data, **how) as ours, ExitStack() as also:
            _, splits, _ = ours.coordinator.enrolled(ours.cell)
            embedding_ND, target_N = tensors(data.embeddings, splits.train)
            sides: dict[str, Callable[[], float]] = {"ours": partial(_speed, ours)}
            for rival in against:
                if rival == "compiled":
                    theirs = also.enter_context(our_training(bench, data, folder="compiled", compile=True, **how))
                    theirs.records()  # the first call compiles
                    sides[rival] = partial(_speed, theirs)
                    continue
                sides[rival] = self._rival(rival, bench, size, embedding_ND, target_N, precision[1])
            taken = measure_in_turn(sides, self.repeats, bench.device)
        accuracy = {}
        if size.accuracy_epochs and "lightning_pml" in against:
            with our_training(bench, data, max_epochs=size.accuracy_epochs, **settings) as ours:
                accuracy = self._accuracy(bench, size, ours, precision[1])
        gflop = 4 * size.classes * self.dim / 1e9  # forward and weight gradient; embeddings are frozen
        for rival in against:
            more = accuracy if rival == "lightning_pml" else {}
            yield record(
                "head", size.classes, size.batch, " against ".join(dict.fromkeys(precision)), rival, "samples/s",
                taken["ours"], taken[rival], ours_gflops=gflop * taken["ours"].median,
                theirs_gflops=gflop * taken[rival].median, **more,
            )  # fmt: skip

    def _rival(
        self, rival: str, bench: Bench, size: Size, embedding_ND: Tensor, target_N: Tensor, precision: str
    ) -> Callable[[], float]:
        device, seed = bench.device, bench.cfg.seed
        training = (embedding_ND, target_N, size.classes, size.batch, size.epochs, precision, size.steps, device, seed)
        ceiling = size.classes, size.batch, self.dim
        return {
            "lightning_pml": lambda: rivals.train_pml(*training)[0],
            "insightface": lambda: rivals.train_insightface(*training),
            "gemm": lambda: rivals.gemm_samples_per_second(*ceiling, precision, device, FILL_SECONDS),
            "memory": lambda: rivals.memory_samples_per_second(*ceiling, device, FILL_SECONDS),
        }[rival]

    def _accuracy(self, bench: Bench, size: Size, ours: OurTraining, precision: str) -> dict[str, Any]:
        ours.records()
        data, splits, _ = ours.coordinator.enrolled(ours.cell)
        train, test = (tensors(data.embeddings, split) for split in (splits.train, splits.test))
        seed = bench.cfg.seed
        (job,) = ours.coordinator.jobs(ours.cell, ours.scenario)
        module, served = network(job, Enrolled.of(job))
        batches = served.train_dataloader()
        assert isinstance(module.head, LinearHead) and isinstance(batches, IndexBatches)
        begin = module.head.weight().detach(), batches
        _, head = rivals.train_pml(
            *train, size.classes, size.batch, size.accuracy_epochs, precision, None, bench.device, seed, begin
        )
        return {
            "epochs": size.accuracy_epochs,
            "accuracy": ours.accuracy(),
            "theirs_accuracy": head.named_rightly(*test),
            "accuracy_probes": len(splits.test),
        }


def _speed(training: OurTraining) -> float:
    return samples_per_second(training.records()[0]["history"])


def tensors(embeddings_ND: np.ndarray, split: Split) -> tuple[Tensor, Tensor]:
    """Samples of a split as a user would hold them: (N, D) float32 unit vectors and (N,) int64 labels."""
    rows = torch.from_numpy(normalise_rows(embeddings_ND[split.rows]))
    return rows, torch.from_numpy(split.labels.astype(np.int64))
