# SPDX-License-Identifier: MIT
"""Random partition: independent of the embeddings, as in the independent softmax model (ISM)."""

import numpy as np

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner


class RandomPartitioner(Partitioner):
    """Identities in uniformly random order, dealt to the clusters.

    ISM: Wu, Li, Kong & Fu, "Deep CNN with Independent Softmax for Large Scale Face Recognition", ACM MM 2016.

    Args:
        sizes: "equal": sizes differ by at most one; "binomial": each identity draws its cluster, as in the public
            MixMaxSim code, and an empty cluster takes one identity of the largest.
        shuffle: number of the shuffle of a seed, from 0 on.
    """

    def __init__(self, sizes: str = "equal", shuffle: int = 0):
        if sizes not in ("equal", "binomial"):
            raise InputError(f"sizes = {sizes!r}", "'equal' or 'binomial'", "correct partitioner.sizes")
        if shuffle < 0:
            raise InputError(f"shuffle = {shuffle}", "a whole number from 0 on", "correct partitioner.shuffle")
        self.sizes, self.shuffle = sizes, shuffle

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        beside = [self.shuffle] if self.shuffle else []  # shuffle 0 is that of earlier runs
        random, k = np.random.default_rng([seed, 3, *beside]), len(class_means_KD)
        if self.sizes == "equal":
            return random.permutation(np.arange(k) % m)
        cluster_of = random.integers(m, size=k)
        for empty in np.flatnonzero(np.bincount(cluster_of, minlength=m) == 0):
            largest = np.bincount(cluster_of, minlength=m).argmax()
            cluster_of[random.choice(np.flatnonzero(cluster_of == largest))] = empty
        return cluster_of
