# SPDX-License-Identifier: MIT
"""K-means with a least and a largest cluster size.

Axes: K points (identities, labels or features), D dimensions, M clusters.
"""

import math

import numpy as np

from datamodules.errors import InputError, needed_package
from datamodules.partitioners.base import Partitioner

MAX_POINTS = 20_000  # the assignment step is one min-cost flow over K x M edges


class SizeConstrainedKMeans(Partitioner):
    """Lloyd's algorithm with a min-cost flow as assignment step that keeps cluster sizes within bounds.

    Bradley, Bennett & Demiriz, "Constrained K-Means Clustering", Microsoft Research MSR-TR-2000-65, 2000, by the
    package k-means-constrained, which minimises the sum of distances, not of their squares. Sizes are from
    floor(smallest K / m), at least 1, to ceil(largest K / m). 20,000 points or more are refused.

    Args:
        smallest: least size of a cluster, as a share of K / m, in [0, 1].
        largest: largest size, as a multiple of K / m, at least 1.
        n_init: starts (k-means++), the one with the lowest inertia wins.
    """

    def __init__(self, smallest: float = 0.5, largest: float = 1.5, n_init: int = 1, max_iter: int = 100):
        if not 0 <= smallest <= 1 <= largest < math.inf:
            got = f"smallest = {smallest:g}, largest = {largest:g}"
            raise InputError(got, "smallest in [0, 1], largest from 1", "correct the partitioner")
        if n_init < 1 or max_iter < 1:
            raise InputError(f"n_init = {n_init}, max_iter = {max_iter}", "at least 1 each", "correct the partitioner")
        self.smallest, self.largest, self.n_init, self.max_iter = smallest, largest, n_init, max_iter

    def bounds(self, k: int, m: int) -> tuple[int, int]:
        # Rounded first: 0.7 x 10 / 7 is not exactly 1 in binary.
        low, high = round(self.smallest * k / m, 9), round(self.largest * k / m, 9)
        return max(1, math.floor(low)), min(k, math.ceil(high))

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        if len(class_means_KD) >= MAX_POINTS:
            got = f"{len(class_means_KD)} points for size-constrained k-means"
            raise InputError(got, f"fewer than {MAX_POINTS}", "partitioner=kmeans")
        with needed_package("k-means-constrained", "it installed", "pip install clusterface[balanced]"):
            from k_means_constrained import KMeansConstrained
        points_KD = np.asarray(class_means_KD, np.float64)
        points_KD = points_KD - points_KD.mean(axis=0)
        # The package rounds distances to thousandths in 32 bits: this radius loses no precision and does not overflow.
        radius = np.linalg.norm(points_KD, axis=1).max()
        points_KD *= 1000 / radius if radius > 0 else 1
        size_min, size_max = self.bounds(len(points_KD), m)
        return KMeansConstrained(
            m, size_min, size_max, n_init=self.n_init, max_iter=self.max_iter, random_state=seed
        ).fit_predict(points_KD)
