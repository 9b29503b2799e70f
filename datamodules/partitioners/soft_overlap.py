# SPDX-License-Identifier: MIT
"""Overlapping clusters: identities between two clusters belong to both.

Axes: K identities, D embedding dimension, M clusters.
"""

import numpy as np

from datamodules.errors import InputError
from datamodules.partitioners.kmeans import KMeansPartitioner
from datamodules.partitioners.samples import TrainingSamples


class SoftOverlapPartitioner(KMeansPartitioner):
    """K-means on the class means; a share of the identities belongs to a second cluster too.

    They are those whose distances to the two nearest centres differ least. There they are found by probes that are
    routed to the wrong one of the two.

    Args:
        share: of the identities, in [0, 1], with a second cluster.
    """

    def __init__(self, share: float = 0.2, n_init: int = 1, max_iter: int = 100, faiss_above: int = 100_000):
        super().__init__(n_init, max_iter, faiss_above)
        if not 0 <= share <= 1:
            raise InputError(f"share = {share}", "a share from 0 to 1", "correct partitioner.share")
        self.share = share

    def memberships(
        self, class_means_KD: np.ndarray, m: int, seed: int, samples: TrainingSamples | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        home, count = self.assign(class_means_KD, m, seed), round(self.share * len(class_means_KD))
        distance_KM = distances(class_means_KD, centres_of(class_means_KD, home, m))
        every = np.arange(len(home))
        own = distance_KM[every, home].copy()
        distance_KM[every, home] = np.inf
        second = distance_KM.argmin(axis=1)
        closest = np.argsort(distance_KM[every, second] - own, kind="stable")[:count]
        return home, np.stack([closest, second[closest]], axis=1)


def centres_of(points_KD: np.ndarray, cluster_of: np.ndarray, m: int) -> np.ndarray:
    """Mean of the points of each of m clusters, none empty: (M, D) float32."""
    order = np.argsort(cluster_of, kind="stable")
    starts = np.searchsorted(cluster_of[order], np.arange(m))
    sums = np.add.reduceat(points_KD[order], starts, axis=0, dtype=np.float64)
    return (sums / np.bincount(cluster_of, minlength=m)[:, None]).astype(np.float32)


def distances(points_KD: np.ndarray, centres_MD: np.ndarray) -> np.ndarray:
    """Euclidean distance of each point to each centre: (K, M) float32."""
    squared_KM = -2 * (points_KD @ centres_MD.T)
    squared_KM += np.einsum("kd,kd->k", points_KD, points_KD)[:, None]
    squared_KM += np.einsum("md,md->m", centres_MD, centres_MD)
    return np.sqrt(np.maximum(squared_KM, 0))
