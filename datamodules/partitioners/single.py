# SPDX-License-Identifier: MIT
"""One cluster that holds every identity: no distribution is m = 1 of the same code."""

import numpy as np

from datamodules.partitioners.base import Partition, Partitioner
from datamodules.partitioners.samples import TrainingSamples


class SinglePartitioner(Partitioner):
    """Puts all identities into one cluster, for any m."""

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        return np.zeros(len(class_means_KD), dtype=np.int32)

    def fit(
        self, class_means_KD: np.ndarray, m: int | None = 1, seed: int = 0, samples: TrainingSamples | None = None
    ) -> Partition:
        return super().fit(class_means_KD, 1, seed)
