# SPDX-License-Identifier: MIT
"""The methods that train networks: one per label cluster, with or without a gate, and one per label.

Axes: N rows, L labels, M label clusters.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner
from experiments.command_line.choices import load_node
from experiments.label_clusters.experiment import LabelExperiment
from experiments.label_clusters.networks import NetworkSpec, train_networks
from lightning_modules.baselines.multilabel_base import LabelScorer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The scores of a method."""

    scores: np.ndarray  # (N, L) float32 in [0, 1], all rows
    facts: dict[str, Any] = field(default_factory=dict)  # columns of results.csv; epochs are a mean over networks
    # (L,) cluster of each label, for the leaky readings; None if they do not apply.
    cluster_of: np.ndarray | None = None


class NetworkMethod(ABC):
    """Hyper-parameters in `__init__`, an experiment in `run`."""

    @abstractmethod
    def run(self, experiment: LabelExperiment) -> Outcome:
        """Trains the networks that are not on disk, and scores all rows."""


class LabelClusters(NetworkMethod):
    """One perceptron per cluster of labels; their predictions are concatenated.

    Args:
        partitioner: of the labels, by the rows of their affinity.
        clusters: m; None takes that of the settings.
        drop_rows: train each network without the rows that have no label of its cluster.
        gate: another perceptron learns, from all rows, whether a row has a label in each cluster. Its probability
            multiplies those of the cluster, because a network that never saw rows without a label gives
            P(label | row has one in the cluster): P(label) is that times P(row has one in the cluster).
        feature_share: K as a share of the features, in (0, 1]; None takes K of the settings.
    """

    def __init__(
        self, partitioner: Partitioner, clusters: int | None = None, drop_rows: bool = True, gate: bool = False,
        feature_share: float | None = None,
    ):  # fmt: skip
        if feature_share is not None and not 0 < feature_share <= 1:
            raise InputError(f"feature_share = {feature_share:g}", "above 0, at most 1", "correct it")
        self.partitioner, self.clusters, self.drop_rows, self.gate = partitioner, clusters, drop_rows, gate
        self.feature_share = feature_share

    def run(self, experiment: LabelExperiment) -> Outcome:
        settings, labels_NL = experiment.settings, experiment.data.labels
        if self.feature_share is not None:
            inputs = max(1, round(self.feature_share * experiment.data.features.shape[1]))
            experiment = replace(experiment, settings=replace(settings, feature_clusters=inputs))
        m = self.clusters or settings.label_clusters
        partition = self.partitioner.fit(experiment.label_affinity, m, experiment.seed)
        log.info("%s: labels, %s", experiment.title, partition.describe())
        members_M = [partition.members(cluster) for cluster in range(partition.n_clusters)]
        specs = []
        for cluster, members in enumerate(members_M):
            title = f"label cluster {cluster} of {partition.n_clusters}"
            if self.drop_rows and not labels_NL[np.ix_(experiment.split.train, members)].any():
                log.warning("%s: no training row has a label of %s; none is predicted", experiment.title, title)
                continue
            specs.append(NetworkSpec(labels_NL[:, members], cluster, title, self.drop_rows))
        trained = [spec.number for spec in specs]
        if self.gate:
            has_label_NM = np.stack([labels_NL[:, members].any(axis=1) for members in members_M], axis=1)
            specs.append(NetworkSpec(has_label_NM, 0, "gate", drop_rows=False))
        answers, facts = _trained(experiment, specs)
        scores_NL = np.zeros(labels_NL.shape, np.float32)
        for cluster, answer in zip(trained, answers, strict=False):
            scores_NL[:, members_M[cluster]] = answer
        if self.gate:
            scores_NL *= answers[-1][:, partition.cluster_of]
        return Outcome(scores_NL, facts, partition.cluster_of if self.drop_rows and not self.gate else None)


class SeparateNetworks(NetworkMethod):
    """Binary relevance with the same perceptron: one network per label, trained with all rows.

    Args:
        labels_per_stack: networks trained together. It changes speed, memory and the random numbers of dropout, but
            not the initial weights, the order of the batches, or the epoch at which each network stops.
    """

    def __init__(self, labels_per_stack: int = 16):
        if labels_per_stack < 1:
            raise InputError(f"labels_per_stack = {labels_per_stack}", "at least 1", "correct it")
        self.labels_per_stack = labels_per_stack

    def run(self, experiment: LabelExperiment) -> Outcome:
        labels_NL = experiment.data.labels
        stacks = np.array_split(np.arange(labels_NL.shape[1]), -(-labels_NL.shape[1] // self.labels_per_stack))
        specs = []
        for number, columns in enumerate(stacks):
            title = f"binary relevance networks {columns[0]} to {columns[-1]}"
            specs.append(NetworkSpec(labels_NL[:, columns], number, title, False, tuple(columns.tolist()), stream=0))
        answers, facts = _trained(experiment, specs)
        return Outcome(np.concatenate(answers, axis=1), {**facts, "networks": labels_NL.shape[1]})


def _trained(experiment: LabelExperiment, specs: Sequence[NetworkSpec]) -> tuple[list[np.ndarray], dict[str, Any]]:
    found = train_networks(experiment, specs)
    records = [record for _, record in found]
    return [answer for answer, _ in found], {
        "networks": len(records),
        "epochs": float(np.mean([record["epochs"] for record in records])) if records else 0.0,
        "parameters": sum(record["parameters"] for record in records),
        "train_seconds": sum(record["seconds"] for record in records),
    }


def load_methods(cfg: DictConfig) -> dict[str, tuple[DictConfig, NetworkMethod | LabelScorer]]:
    """Node and method of each `configs/label_method/<name>.yaml`; refuses an unknown name."""
    methods = {}
    for name in cfg.methods:  # a file may refer to the partitioner of the command
        content = {"label_partitioner": cfg.label_partitioner, "method": load_node("label_method", name)}
        node = OmegaConf.create(content).method
        methods[name] = node, instantiate(node)
    return methods
