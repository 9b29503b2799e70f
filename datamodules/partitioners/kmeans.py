# SPDX-License-Identifier: MIT
"""K-means with k-means++ seeding over the class means: the partition of the paper.

Axes: K identities, D embedding dimension, M clusters.
"""

import logging
import os
import warnings

import numpy as np

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner

logger = logging.getLogger(__name__)

SEEDS_OF = 64  # points per cluster that k-means++ draws from, above `faiss_above`; Lloyd's steps look at all


class KMeansPartitioner(Partitioner):
    """Lloyd's algorithm on the unit class means, started by k-means++ (Arthur & Vassilvitskii, SODA 2007).

    scikit-learn below `faiss_above` identities, faiss above; both look at every class mean (faiss would otherwise
    take 256 per cluster at random), only the seeds are drawn from a sample above. A cluster that ends empty takes the
    identity farthest from its centre.

    Args:
        n_init: starts, the one with the lowest inertia wins.
        faiss_above: number of identities from which on faiss is used.
    """

    def __init__(self, n_init: int = 1, max_iter: int = 100, faiss_above: int = 100_000):
        if n_init < 1 or max_iter < 1:
            raise InputError(f"n_init = {n_init}, max_iter = {max_iter}", "at least 1 each", "correct the partitioner")
        self.n_init, self.max_iter, self.faiss_above = n_init, max_iter, faiss_above

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        points = np.ascontiguousarray(class_means_KD, dtype=np.float32)
        cluster_of, distance = (self._faiss if len(points) > self.faiss_above else self._sklearn)(points, m, seed)
        return fill_empty(cluster_of, distance, m)

    def _sklearn(self, points: np.ndarray, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # Fewer distinct points than clusters: fill_empty deals with it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = KMeans(m, init="k-means++", n_init=self.n_init, max_iter=self.max_iter, random_state=seed).fit(
                points
            )
        logger.info("k-means: %d iterations, inertia %.6g", fitted.n_iter_, fitted.inertia_)
        return fitted.labels_, np.linalg.norm(points - fitted.cluster_centers_[fitted.labels_], axis=1)

    def _faiss(self, points: np.ndarray, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        import faiss
        from sklearn.cluster import kmeans_plusplus

        faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        random, found = np.random.default_rng(seed), []
        for _ in range(self.n_init):
            # faiss's own k-means++ walks over all points once per cluster: as long as ten iterations.
            sample = np.sort(random.choice(len(points), min(len(points), SEEDS_OF * m), replace=False))
            centres_MD, _ = kmeans_plusplus(
                points[sample], m, random_state=int(random.integers(2**31)), n_local_trials=1
            )
            kmeans = faiss.Kmeans(
                points.shape[1], m, niter=self.max_iter, max_points_per_centroid=len(points), min_points_per_centroid=1
            )
            kmeans.train(points, init_centroids=centres_MD)
            squared, cluster_of = kmeans.index.search(points, 1)
            found.append((float(squared.sum()), cluster_of.ravel(), np.sqrt(np.maximum(squared.ravel(), 0))))
        _, cluster_of, distance = min(found, key=lambda one: one[0])
        return cluster_of, distance


def fill_empty(cluster_of: np.ndarray, distance: np.ndarray, m: int) -> np.ndarray:
    """Gives every empty cluster the point farthest from its own centre that does not leave its cluster empty.

    Args:
        cluster_of: (K,) integers in [0, m).
        distance: (K,) of each point to the centre of its cluster.
        m: clusters, at most K.

    Returns:
        (K,) int32 in which each of the m values occurs.
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
