# SPDX-License-Identifier: MIT
"""K-means of very many class means: our partitioner against faiss on all points, and on the sample it takes by itself.

Axes: K points, M clusters, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
import pandas as pd

from datamodules.partitioners.kmeans import KMeansPartitioner
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.measurement import Taken, measure_in_turn, record, seconds
from experiments.benchmarks.synthetic_data import class_means_of


@dataclass
class PartitioningBenchmark(Group):
    """Seconds and inertia of k-means at equal iterations.

    From 100,000 points on our partitioner is faiss on all points, started by k-means++: the pair shows the cost of
    that start and of the repair of empty clusters, and their gain in inertia. It is no faster algorithm.
    """

    n_points: int = 360_000
    n_clusters: int = 180
    iterations: int = 10
    repeats: int = 3
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        points_KD = class_means_of(self.n_points, self.dim, bench.cfg.seed)
        cluster_of: dict[str, np.ndarray] = {}
        partitioner = KMeansPartitioner(max_iter=self.iterations, faiss_above=0)
        sides = {
            "ours": lambda: partitioner.fit(points_KD, self.n_clusters, bench.cfg.seed).cluster_of,
            "faiss_kmeans": lambda: self._faiss(points_KD, self.n_points),
            "faiss_kmeans, sampled": lambda: self._faiss(points_KD, 256),
        }

        def timed(name: str) -> float:
            return seconds(lambda: cluster_of.update({name: sides[name]()}))

        taken = measure_in_turn({name: partial(timed, name) for name in sides}, self.repeats)
        spread = {name: Taken((inertia(points_KD, found),)) for name, found in cluster_of.items()}
        common = (self.n_points, self.n_clusters, "float32")
        for name in list(sides)[1:]:
            yield record("k-means", *common, name, "s", taken["ours"], taken[name], iterations=self.iterations)
            yield record("k-means, inertia", *common, name, "summed squared distance", spread["ours"], spread[name])

    def _faiss(self, points_KD: np.ndarray, per_centroid: int) -> np.ndarray:
        options = {"niter": self.iterations, "seed": 1, "max_points_per_centroid": per_centroid}
        kmeans = faiss.Kmeans(self.dim, self.n_clusters, **options)
        kmeans.train(points_KD)
        return kmeans.index.search(points_KD, 1)[1][:, 0]


def inertia(points_KD: np.ndarray, cluster_of: np.ndarray) -> float:
    """Summed squared distance of (K, D) unit points to the mean of their cluster, one of (K,) integers.

    It is K minus the sum of |sum of a cluster|^2 / n.
    """
    clusters = pd.Series(cluster_of).groupby(cluster_of).indices.values()
    sums = [np.square(points_KD[rows].sum(axis=0, dtype=np.float64)).sum() / len(rows) for rows in clusters]
    return len(points_KD) - float(sum(sums))
