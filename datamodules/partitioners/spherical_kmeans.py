# SPDX-License-Identifier: MIT
"""Spherical k-means: clusters of directions, centres of unit length.

Axes: K identities, D embedding dimension, M clusters.
"""

import numpy as np

from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.kmeans import by_faiss, fill_empty


class SphericalKMeansPartitioner(Partitioner):
    """Each class mean goes to the centre of highest cosine; a centre is the normalised sum of its members.

    Dhillon & Modha, "Concept Decompositions for Large Sparse Text Data", Machine Learning 42, 2001. Ordinary k-means on
    unit vectors subtracts half the squared length of a centre: clusters of scattered points, whose centres are short,
    gain members. A cluster that ends empty takes the identity farthest from its centre. Of `n_init` starts the one with
    the highest sum of cosines is kept.
    """

    def __init__(self, n_init: int = 1, max_iter: int = 50):
        self.n_init, self.max_iter = n_init, max_iter

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        points = np.ascontiguousarray(class_means_KD, dtype=np.float32)
        cluster_of, cosine = by_faiss(points, m, seed, self.n_init, self.max_iter, spherical=True)
        return fill_empty(cluster_of, 1 - cosine, m)
