# SPDX-License-Identifier: MIT
"""The training data of sub-networks, as objects.

Axes: K identities, D embedding dimension, C classes of one sub-network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.lazy import short_repr
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Splits, split_identities
from experiments.training.job import Job


@dataclass(frozen=True)
class SplitData:
    """A data set with K enrolled identities.

    Attributes:
        splits: training, validation and test samples of the enrolled, with labels 0 to K - 1.
        class_means_KD: (K, D) float32 unit class means of the training samples.
    """

    embedding_set: EmbeddingSet
    splits: Splits
    class_means_KD: np.ndarray

    __repr__ = short_repr

    @classmethod
    def make(cls, embedding_set: EmbeddingSet, split: dict[str, Any]) -> "SplitData":
        """Splits a set; `split` holds the arguments of `datamodules.splits.split_identities`."""
        splits = split_identities(embedding_set, **split)
        return cls(embedding_set, splits, class_means(embedding_set.embeddings, splits.train, splits.n_identities))

    @property
    def identities(self) -> tuple[str, ...]:
        """Names of the K enrolled identities."""
        return tuple(self.embedding_set.identities[label] for label in self.splits.enrolled)

    @property
    def train_samples(self) -> TrainingSamples:
        """The training samples of all enrolled identities."""
        return TrainingSamples(self.embedding_set.embeddings, self.splits.train)

    def cluster(self, partition: Partition, cluster: int) -> "ClusterData":
        """The data of one sub-network."""
        return ClusterData(self, partition.members(cluster))


@dataclass(frozen=True)
class ClusterData:
    """The data of one sub-network.

    Attributes:
        whole: the data of all sub-networks.
        members_C: (C,) labels of the identities in the cluster, ascending.
    """

    whole: SplitData
    members_C: np.ndarray


class JobData:
    """Opens the data that jobs name by their paths; the last set and the last partition stay open."""

    def __init__(self):
        self._named: tuple[str, dict[str, Any]] | None = None
        self._partition_folder: str | None = None

    def open(self, job: Job) -> ClusterData:
        """The data of a job.

        Raises:
            InputError: see `EmbeddingSet.open` and `Partition.load`.
        """
        if self._named != (job.data, job.split):
            self._data = SplitData.make(EmbeddingSet.open(job.data, check_values=False), job.split)
            self._named = job.data, job.split
        if self._partition_folder != job.partition:
            self._partition, self._partition_folder = Partition.load(job.partition), job.partition
        return self._data.cluster(self._partition, job.cluster)
