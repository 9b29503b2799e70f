# SPDX-License-Identifier: MIT
"""K-means of very many class means: our partitioner against faiss on all points, and on the sample it takes by itself.

Axes: K points, M clusters, D dimensions.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np

from datamodules.partitioners.kmeans import KMeansPartitioner
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.pairing import Skipped, Taken, measure_in_turn, record
from experiments.benchmarks.people import class_means_of


class PartitioningBenchmark(Group):
    """Seconds and inertia of k-means at equal iterations.

    From 100,000 points on our partitioner is faiss, told to look at all points and to start by k-means++: this pair
    says what that start and the repair of empty clusters cost, and what inertia they buy. It is no faster algorithm.

    Args:
        n_points: K.
        n_clusters: M.
        iterations: of both.
        repeats: pairs of each comparison.
        dim: D.
    """

    def __init__(
        self, n_points: int = 360_000, n_clusters: int = 180, iterations: int = 10, repeats: int = 3, dim: int = 512
    ):
        self.n_points, self.n_clusters, self.iterations = n_points, n_clusters, iterations
        self.repeats, self.dim = repeats, dim

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        points_KD = class_means_of(self.n_points, self.dim, bench.cfg.seed)
        cluster_of: dict[str, np.ndarray] = {}
        partitioner = KMeansPartitioner(max_iter=self.iterations, faiss_above=0)
        sides = {
            "ours": lambda: partitioner.fit(points_KD, self.n_clusters, bench.cfg.seed).cluster_of,
            "faiss_kmeans": lambda: self._faiss(points_KD, self.n_points),
            "faiss_kmeans, sampled": lambda: self._faiss(points_KD, 256),
        }
        timed = {name: _timed(name, side, cluster_of) for name, side in sides.items()}
        taken = measure_in_turn(timed, self.repeats)
        spread = {name: inertia(points_KD, found) for name, found in cluster_of.items()}
        common = (self.n_points, self.n_clusters, "float32")
        for rival in list(sides)[1:]:
            yield record("k-means", *common, rival, "s", taken["ours"], taken[rival], iterations=self.iterations)
            one, other = (Taken((spread[name],), 0.0) for name in ("ours", rival))
            yield record("k-means, inertia", *common, rival, "summed squared distance", one, other)

    def _faiss(self, points_KD: np.ndarray, per_centroid: int) -> np.ndarray:
        kmeans = faiss.Kmeans(
            self.dim, self.n_clusters, niter=self.iterations, seed=1, max_points_per_centroid=per_centroid
        )
        kmeans.train(points_KD)
        return kmeans.index.search(points_KD, 1)[1][:, 0]


def _timed(name: str, side: Callable[[], np.ndarray], found: dict[str, np.ndarray]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        found[name] = side()
        return time.perf_counter() - started

    return run


def inertia(points_KD: np.ndarray, cluster_of: np.ndarray) -> float:
    """Summed squared distance of unit points to the mean of their cluster: K minus the sum of |sum of a cluster|^2 / n.

    Args:
        points_KD: (K, D) rows of unit length.
        cluster_of: (K,) integers.
    """
    order = np.argsort(cluster_of, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(cluster_of[order]) > 0])
    total = 0.0
    for members in np.split(order, starts[1:]):
        total += float(np.square(points_KD[members].sum(axis=0, dtype=np.float64)).sum()) / len(members)
    return len(points_KD) - total
