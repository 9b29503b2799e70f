# SPDX-License-Identifier: MIT
"""Random partition: independent of the embeddings, as in the independent softmax model (ISM)."""

import numpy as np

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner


class RandomPartitioner(Partitioner):
    """Identities in uniformly random order, dealt to the clusters: their sizes differ by at most one.

    ISM: Wu, Li, Kong & Fu, "Deep CNN with Independent Softmax for Large Scale Face Recognition", ACM MM 2016.

    Args:
        shuffle: number of the shuffle of a seed, from 0 on.
    """

    def __init__(self, shuffle: int = 0):
        if shuffle < 0:
            raise InputError(f"shuffle = {shuffle}", "a whole number from 0 on", "correct partitioner.shuffle")
        self.shuffle = shuffle

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        beside = [self.shuffle] if self.shuffle else []  # shuffle 0 is that of earlier runs
        random, k = np.random.default_rng([seed, 3, *beside]), len(class_means_KD)
        return random.permutation(np.arange(k) % m)
