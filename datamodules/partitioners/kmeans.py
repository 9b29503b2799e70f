# SPDX-License-Identifier: MIT
"""K-means over the class means, the partition of the paper, and what all partitioners by k-means share.

Axes: K identities, D embedding dimension, M clusters.
"""

import logging
import os
import warnings

import numpy as np

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner

logger = logging.getLogger(__name__)


class KMeansPartitioner(Partitioner):
    """Lloyd's algorithm on all class means, started by k-means++ (Arthur & Vassilvitskii, SODA 2007).

    A cluster that ends empty takes the identity farthest from its centre.

    Args:
        n_init: starts; the one with the lowest inertia is kept.
        faiss_above: number of identities above which faiss replaces scikit-learn.
    """

    def __init__(self, n_init: int = 1, max_iter: int = 100, faiss_above: int = 100_000):
        if n_init < 1 or max_iter < 1:
            raise InputError(f"n_init = {n_init}, max_iter = {max_iter}", "at least 1 each", "correct the partitioner")
        self.n_init, self.max_iter, self.faiss_above = n_init, max_iter, faiss_above

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        points = np.ascontiguousarray(class_means_KD, dtype=np.float32)
        if len(points) > self.faiss_above:
            cluster_of, squared = by_faiss(points, m, seed, self.n_init, self.max_iter)
            return fill_empty(cluster_of, squared, m)
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        kmeans = KMeans(m, init="k-means++", n_init=self.n_init, max_iter=self.max_iter, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: see fill_empty
            kmeans.fit(points)
        logger.info("k-means: %d iterations, inertia %.6g", kmeans.n_iter_, kmeans.inertia_)
        distance = np.linalg.norm(points - kmeans.cluster_centers_[kmeans.labels_], axis=1)
        return fill_empty(kmeans.labels_, distance, m)


def by_faiss(points_KD: np.ndarray, m: int, seed: int, n_init: int, max_iter: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means on all points, started by k-means++: (K,) int64 clusters, (K,) float32 squared distances."""
    import faiss

    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    kmeans = faiss.Kmeans(
        points_KD.shape[1], m, niter=max_iter, nredo=n_init, seed=seed + 1,
        max_points_per_centroid=len(points_KD), min_points_per_centroid=1,  # faiss would sample 256 points a centre
    )  # fmt: skip
    kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    kmeans.train(points_KD)
    squared, cluster_of = kmeans.index.search(points_KD, 1)
    logger.info("k-means by faiss: mean squared distance %.4f", squared.mean())
    return cluster_of.ravel(), squared.ravel()


def fill_empty(cluster_of: np.ndarray, distance: np.ndarray, m: int) -> np.ndarray:
    """Gives every empty cluster the point farthest from its own centre that does not leave its cluster empty.

    Takes (K,) clusters in [0, m), m <= K, and the (K,) distances of the points to their centres; returns (K,) int32.
    """
    cluster_of = np.array(cluster_of, dtype=np.int32)
    sizes = np.bincount(cluster_of, minlength=m)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        logger.warning("k-means left %d of %d clusters empty; each takes the farthest identity", len(empty), m)
        farthest = iter(np.argsort(-distance, kind="stable"))
        for cluster in empty:
            moved = next(point for point in farthest if sizes[cluster_of[point]] > 1)
            sizes[cluster_of[moved]] -= 1
            cluster_of[moved] = cluster
            sizes[cluster] += 1
    return cluster_of
