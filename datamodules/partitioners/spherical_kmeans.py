# SPDX-License-Identifier: MIT
"""Spherical k-means: clusters of directions, centres of unit length.

Axes: K identities, D embedding dimension, M clusters.
"""

import logging
import os

import numpy as np

from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.kmeans import fill_empty

logger = logging.getLogger(__name__)


class SphericalKMeansPartitioner(Partitioner):
    """Each class mean goes to the centre of highest cosine; a centre is the normalised sum of its members.

    Dhillon & Modha, "Concept Decompositions for Large Sparse Text Data", Machine Learning 42, 2001: maximises the sum
    of cosines between points and centres. Ordinary k-means on the same unit vectors subtracts half the squared length
    of a centre, so that clusters of scattered points, whose centres are short, gain members; here they do not.

    faiss, started by k-means++ on Euclidean distances, over all class means (faiss by itself would take 256 per
    cluster at random). A cluster that ends empty takes the identity farthest from its centre.

    Args:
        n_init: starts, the one with the highest sum of cosines wins.
    """

    def __init__(self, n_init: int = 1, max_iter: int = 50):
        self.n_init, self.max_iter = n_init, max_iter

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        import faiss

        faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        points = np.ascontiguousarray(class_means_KD, dtype=np.float32)
        kmeans = faiss.Kmeans(
            points.shape[1], m, spherical=True, niter=self.max_iter, nredo=self.n_init, seed=seed + 1,
            max_points_per_centroid=len(points), min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
        kmeans.train(points)
        cosine, cluster_of = kmeans.index.search(points, 1)
        logger.info("spherical k-means: mean cosine with the own centre %.4f", cosine.mean())
        return fill_empty(cluster_of.ravel(), 1 - cosine.ravel(), m)
