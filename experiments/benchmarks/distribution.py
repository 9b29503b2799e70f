# SPDX-License-Identifier: MIT
"""One epoch of all sub-networks, one after another, against no distribution; and time per sample as N grows."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.our_training import our_training, synthetic_set
from experiments.benchmarks.pairing import Measure, Skipped, measure_in_turn, record
from experiments.coordination.data import subnets_for
from experiments.coordination.evaluation import training_columns


class DistributionBenchmark(Group):
    """Seconds of one epoch, both sides by the same code: m sub-networks serially against one network over everybody.

    m is the paper's, N / 2000. With equal clusters the products shrink by m exactly; k-means clusters differ in size,
    and the serial time is that of the sum of squares.

    Args:
        n_identities: values of N.
        partitioners: names of files in configs/partitioner: random gives equal clusters, kmeans the paper's.
        batch: samples per step.
        images: of each identity; about 60 % of them train.
        epochs: of each repeat, of which the median counts.
        repeats: pairs of each comparison.
        dim: D.
    """

    def __init__(
        self, n_identities: list[int], partitioners: Sequence[str] = ("random", "kmeans"), batch: int = 256,
        images: int = 10, epochs: int = 3, repeats: int = 2, dim: int = 512,
    ):  # fmt: skip
        self.n_identities, self.partitioners, self.batch, self.images = n_identities, partitioners, batch, images
        self.epochs, self.repeats, self.dim = epochs, repeats, dim

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        precision, settings = bench.cfg.trainer.matmul, {"batch_size": self.batch, "max_epochs": self.epochs}
        for n in self.n_identities:
            (m,) = subnets_for([n], "auto")
            data = synthetic_set(bench, n, self.images, self.dim)
            one = lambda data=data: _epoch_seconds(bench, data, 1, "single", settings)  # noqa: E731
            for partitioner in self.partitioners:
                many = lambda d=data, m=m, p=partitioner: _epoch_seconds(bench, d, m, p, settings)  # noqa: E731
                taken = measure_in_turn({"ours": many, "theirs": one}, self.repeats, bench.device)
                made = record(
                    f"epoch of {m} sub-networks, serial, {partitioner}", n, self.batch, precision, "no_distribution",
                    "s", taken["ours"], taken["theirs"], n_subnets=m,
                )  # fmt: skip
                yield {**made, "ratio_by_m": made["ratio"] / m}


class ScalingBenchmark(Group):
    """Microseconds of training per sample and epoch at N identities against those at the smallest N.

    With 2,000 identities per sub-network it should not grow: a ratio of 1 is flat.

    Args:
        n_identities: values of N, the smallest first.
        batch, images, epochs, repeats, dim: see `DistributionBenchmark`.
    """

    def __init__(
        self, n_identities: list[int], batch: int = 256, images: int = 10, epochs: int = 3, repeats: int = 2,
        dim: int = 512,
    ):  # fmt: skip
        self.n_identities, self.batch, self.images, self.epochs = n_identities, batch, images, epochs
        self.repeats, self.dim = repeats, dim

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        settings = {"batch_size": self.batch, "max_epochs": self.epochs}
        sides: dict[str, Measure] = {}
        for n in self.n_identities:
            (m,) = subnets_for([n], "auto")
            data = synthetic_set(bench, n, self.images, self.dim)
            sides[str(n)] = partial(_microseconds_per_sample, bench, data, m, settings)
        taken = measure_in_turn(sides, self.repeats, bench.device)
        first = self.n_identities[0]
        for n in self.n_identities[1:]:
            yield record(
                "training time per sample", n, self.batch, bench.cfg.trainer.matmul, f"N = {first}", "µs",
                taken[str(n)], taken[str(first)], n_subnets=subnets_for([n], "auto")[0],
            )  # fmt: skip


def _records(bench: Bench, data, m: int, partitioner: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    with our_training(bench, data, m, partitioner, **settings) as ours:
        return ours.records()


def _epoch_seconds(bench: Bench, data, m: int, partitioner: str, settings: dict[str, Any]) -> float:
    return training_columns(_records(bench, data, m, partitioner, settings))["epoch_seconds_serial"]


def _microseconds_per_sample(bench: Bench, data, m: int, settings: dict[str, Any]) -> float:
    records = _records(bench, data, m, "random", settings)
    samples = sum(
        epoch["time/samples_per_second"] * epoch["time/epoch_seconds"]
        for epoch in (record["history"][-1] for record in records)
    )
    return 1e6 * training_columns(records)["epoch_seconds_serial"] / samples
