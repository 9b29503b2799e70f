# SPDX-License-Identifier: MIT
"""One data set, split and scaled with one seed, ready for every method.

Axes: N rows, F features, K inputs of networks, L labels.
"""

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from datamodules.multilabel import FeatureScaling, MultiLabelSet, RowSplit, feature_affinity, label_affinity, split_rows
from datamodules.partitioners.base import Partition, Partitioner
from experiments.label_clusters.config import RowSplitConfig, Settings
from experiments.runs.run_folder import RunFolder
from experiments.training.job import Job
from experiments.training.launchers.base import Launcher
from experiments.training.progress import SECONDS_BETWEEN_LINES, Progress
from lightning_modules.multilabel import scatter_add

log = logging.getLogger(__name__)


class MethodProgress(Progress):
    """Counts methods, over data sets and seeds: the number of epochs of a network is not known before it stops."""

    def __init__(self, console: Console, methods: list[str]):
        super().__init__(console, dict.fromkeys(methods, 1.0), noun="method")

    def job_starts(self, job: Job) -> None:
        pass

    def job_ends(self, job: Job, failure: str | None) -> None:
        pass

    def epoch(self, job: Job, done: int, of: int, values: dict[str, float]) -> None:
        shown = f"{job.title}, epoch {done} of at most {of}"
        self._bar.update(self._task, description=shown)
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{shown}, loss {values.get('train/loss', float('nan')):.4g}")


@dataclass(frozen=True)
class LabelExperiment:
    """A data set with its split and settings, and where and how networks are trained on it."""

    data: MultiLabelSet
    settings: Settings
    shares: RowSplitConfig  # shares of the rows for validation and test
    seed: int  # seeds the split, the clusters and the networks
    feature_partitioner: Partitioner
    run: RunFolder
    trainer: dict[str, Any]  # arguments of Lightning's Trainer
    tracking: dict[str, Any]  # Hydra node
    progress: MethodProgress
    launcher: Launcher

    @property
    def title(self) -> str:
        return f"{self.data.name} seed {self.seed}"

    @cached_property
    def split(self) -> RowSplit:
        return split_rows(len(self.data), self.shares.validation, self.shares.test, self.seed)

    @cached_property
    def scaling(self) -> FeatureScaling:
        return FeatureScaling.fit(self.data.features[self.split.train], self.settings.log_counts)

    @cached_property
    def features(self) -> np.ndarray:
        """(N, F) float32: the inputs of classifiers without feature clusters."""
        return self.scaling.inputs(self.data.features)

    @cached_property
    def feature_clusters(self) -> Partition | None:
        """K clusters of features by their affinity in the training rows; None keeps every feature."""
        if self.settings.feature_clusters is None:
            return None
        affinity_FF = feature_affinity(self.scaling.unit(self.data.features[self.split.train]))
        partition = self.feature_partitioner.fit(affinity_FF, self.settings.feature_clusters, self.seed)
        log.info("%s: features, %s", self.title, partition.describe())
        return partition

    @cached_property
    def inputs(self) -> Tensor:
        """(N, K) float32: the inputs of networks."""
        features_NF, partition = torch.from_numpy(self.features), self.feature_clusters
        if partition is None:
            return features_NF
        return scatter_add(features_NF, torch.from_numpy(partition.cluster_of).long(), partition.n_clusters)

    @cached_property
    def label_affinity(self) -> np.ndarray:
        """(L, L), of the training rows."""
        return label_affinity(self.data.labels[self.split.train])

    def content(self) -> dict[str, Any]:
        """Plain values that, with method and settings, determine the results."""
        shares = {"validation": self.shares.validation, "test": self.shares.test}
        return {"data": self.data.fingerprint, "split": shares, "seed": self.seed}
