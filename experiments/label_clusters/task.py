# SPDX-License-Identifier: MIT
"""A task: one data set, split and scaled with one seed, ready for every method.

Axes: N rows, F features, K inputs of networks, L labels.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.multilabel import FeatureScaling, MultiLabelSet, RowSplit, feature_affinity, label_affinity, split_rows
from datamodules.partitioners.base import Partition, Partitioner
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.run_folder import RunFolder
from experiments.label_clusters.config import RowSplitConfig, Settings
from experiments.label_clusters.progress import MethodProgress
from lightning_modules.multilabel import scatter_add

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a method gets.

    Attributes:
        settings: of its networks.
        shares: of validation and test rows.
        seed: of the split, the clusters and the networks.
        trainer: arguments of the Trainer of a network.
        tracking: Hydra node of the tracking.
    """

    data: MultiLabelSet
    settings: Settings
    shares: RowSplitConfig
    seed: int
    feature_partitioner: Partitioner
    run: RunFolder
    trainer: dict[str, Any]
    tracking: dict[str, Any]
    progress: MethodProgress
    launcher: Launcher

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.data.name} seed {self.seed}"

    @cached_property
    def split(self) -> RowSplit:
        """The roles of the rows."""
        return split_rows(len(self.data), self.shares.validation, self.shares.test, self.seed)

    @cached_property
    def scaling(self) -> FeatureScaling:
        """Learnt from the training rows."""
        return FeatureScaling.fit(self.data.features[self.split.train], self.settings.log_counts)

    @cached_property
    def features(self) -> np.ndarray:
        """(N, F) float32: what classifiers without feature clusters see."""
        return self.scaling.inputs(self.data.features)

    @cached_property
    def feature_clusters(self) -> Partition | None:
        """K clusters of features by their affinity in the training rows; None where every feature is kept."""
        if self.settings.feature_clusters is None:
            return None
        affinity_FF = feature_affinity(self.scaling.unit(self.data.features[self.split.train]))
        partition = self.feature_partitioner.fit(affinity_FF, self.settings.feature_clusters, self.seed)
        log.info("%s: features, %s", self.title, partition.describe())
        return partition

    @cached_property
    def inputs(self) -> Tensor:
        """(N, K) float32: what networks see."""
        features_NF, partition = torch.from_numpy(self.features), self.feature_clusters
        if partition is None:
            return features_NF
        return scatter_add(features_NF, torch.from_numpy(partition.cluster_of).long(), partition.n_clusters)

    @cached_property
    def label_affinity(self) -> np.ndarray:
        """(L, L): of the training rows."""
        return label_affinity(self.data.labels[self.split.train])

    def content(self) -> dict[str, Any]:
        """What the results of a task depend on besides the method and the settings, as plain values."""
        shares = {"validation": self.shares.validation, "test": self.shares.test}
        return {"data": self.data.fingerprint, "split": shares, "seed": self.seed}
