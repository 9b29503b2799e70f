# SPDX-License-Identifier: MIT
"""One epoch of all sub-networks, one after another, against no distribution; and time per sample as N grows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datamodules.embedding_set import EmbeddingSet
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.our_training import our_training, synthetic_set
from experiments.benchmarks.pairing import Measure, measure_in_turn, record
from experiments.coordination.data import subnets_for
from experiments.coordination.evaluation import training_columns


@dataclass
class EpochBenchmark(Group):
    """Short trainings at several N; m is the paper's, N / 2000.

    Args:
        images: of each identity; about 60 % of them train.
        epochs: of each repeat, of which the median counts.
    """

    n_identities: list[int]
    batch: int = 256
    images: int = 10
    epochs: int = 3
    repeats: int = 2
    dim: int = 512

    def records(self, bench: Bench, data: EmbeddingSet, m: int, partitioner: str) -> list[dict[str, Any]]:
        """What each of m sub-networks wrote about its training."""
        with our_training(bench, data, m, partitioner, batch_size=self.batch, max_epochs=self.epochs) as ours:
            return ours.records()


@dataclass
class DistributionBenchmark(EpochBenchmark):
    """Seconds of one epoch, both sides by the same code: m sub-networks serially against one network over everybody.

    With equal clusters the products shrink by m exactly; k-means clusters differ in size, and the serial time is that
    of the sum of squares.

    Args:
        partitioners: names of files in configs/partitioner: random gives equal clusters, kmeans the paper's.
    """

    partitioners: Sequence[str] = ("random", "kmeans")

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        for n in self.n_identities:
            (m,) = subnets_for([n], "auto")
            data = synthetic_set(bench, n, self.images, self.dim)
            one = partial(self._epoch_seconds, bench, data, 1, "single")
            for partitioner in self.partitioners:
                many = partial(self._epoch_seconds, bench, data, m, partitioner)
                taken = measure_in_turn({"ours": many, "theirs": one}, self.repeats, bench.device)
                made = record(
                    f"epoch of {m} sub-networks, serial, {partitioner}", n, self.batch, bench.cfg.trainer.matmul,
                    "no_distribution", "s", taken["ours"], taken["theirs"], n_subnets=m,
                )  # fmt: skip
                yield {**made, "ratio_by_m": made["ratio"] / m}

    def _epoch_seconds(self, bench: Bench, data: EmbeddingSet, m: int, partitioner: str) -> float:
        return training_columns(self.records(bench, data, m, partitioner))["epoch_seconds_serial"]


@dataclass
class ScalingBenchmark(EpochBenchmark):
    """Microseconds of training per sample and epoch at N identities against those at the smallest N, the first given.

    With 2,000 identities per sub-network it should not grow: a ratio of 1 is flat.
    """

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        sides: dict[str, Measure] = {}
        for n, m in zip(self.n_identities, subnets_for(self.n_identities, "auto"), strict=True):
            data = synthetic_set(bench, n, self.images, self.dim)
            sides[str(n)] = partial(self._microseconds_per_sample, bench, data, m)
        taken = measure_in_turn(sides, self.repeats, bench.device)
        first = self.n_identities[0]
        for n in self.n_identities[1:]:
            yield record(
                "training time per sample", n, self.batch, bench.cfg.trainer.matmul, f"N = {first}", "µs",
                taken[str(n)], taken[str(first)], n_subnets=subnets_for([n], "auto")[0],
            )  # fmt: skip

    def _microseconds_per_sample(self, bench: Bench, data: EmbeddingSet, m: int) -> float:
        records = self.records(bench, data, m, "random")
        last = [record["history"][-1] for record in records]
        samples = sum(epoch["time/samples_per_second"] * epoch["time/epoch_seconds"] for epoch in last)
        return 1e6 * training_columns(records)["epoch_seconds_serial"] / samples
