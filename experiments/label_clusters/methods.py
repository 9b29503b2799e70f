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
from datamodules.partitioners.base import Partition, Partitioner
from experiments.coordination.command_line import CONFIGS
from experiments.label_clusters.task import Task
from experiments.label_clusters.training import Wanted, train_networks
from lightning_modules.baselines.multilabel_base import LabelScorer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What networks say.

    Attributes:
        scores: (N, L) float32 in [0, 1], all rows.
        facts: columns of results.csv: networks, epochs (mean of the networks), parameters.
        cluster_of: (L,) cluster of each label, for the leaky readings; None where they make no sense.
    """

    scores: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)
    cluster_of: np.ndarray | None = None


class NetworkMethod(ABC):
    """Hyper-parameters in `__init__`, a task in `run`."""

    @abstractmethod
    def run(self, task: Task) -> Outcome:
        """Trains what is not trained yet, and scores all rows."""


class LabelClusters(NetworkMethod):
    """One perceptron per cluster of labels; predictions are put side by side.

    Args:
        partitioner: of the labels, by the rows of their affinity.
        clusters: m; None takes that of the settings.
        drop_rows: train each network without the rows that have no label of its cluster.
        gate: another perceptron learns, from all rows, whether a row has a label in each cluster, and its probability
            multiplies those of the cluster. A network that never saw rows without a label speaks of rows with one:
            P(label) = P(label | row has one in the cluster) P(row has one in the cluster).
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

    def run(self, task: Task) -> Outcome:
        """See `NetworkMethod.run`."""
        if self.feature_share is not None:
            inputs = max(1, round(self.feature_share * task.data.features.shape[1]))
            task = replace(task, settings=replace(task.settings, feature_clusters=inputs))
        m = self.clusters or task.settings.label_clusters
        partition = self.partitioner.fit(task.label_affinity, m, task.seed)
        log.info("%s: labels, %s", task.title, partition.describe())
        labels_NL, wanted = task.data.labels, []
        for cluster in range(partition.n_clusters):
            columns, title = partition.members(cluster), f"label cluster {cluster} of {partition.n_clusters}"
            if self.drop_rows and not labels_NL[np.ix_(task.split.train, columns)].any():
                log.warning("%s: no training row has a label of %s; none is predicted", task.title, title)
                continue
            wanted.append(Wanted(labels_NL[:, columns], cluster, title, self.drop_rows))
        trained = [each.number for each in wanted]
        if self.gate:
            wanted.append(Wanted(_has_label(labels_NL, partition), 0, "gate", drop_rows=False))
        answers, facts = _trained(task, wanted)
        scores_NL = np.zeros(labels_NL.shape, np.float32)
        for cluster, answer in zip(trained, answers, strict=False):
            scores_NL[:, partition.members(cluster)] = answer
        if self.gate:
            scores_NL *= answers[-1][:, partition.cluster_of]
        return Outcome(scores_NL, facts, partition.cluster_of if self.drop_rows and not self.gate else None)


class SeparateNetworks(NetworkMethod):
    """Binary relevance with the same perceptron: a network of its own for each label, trained with all rows.

    Args:
        labels_per_stack: networks trained together; it changes speed and memory, and the random numbers of dropout,
            but neither initial weights nor the order of the batches nor when each network ends.
    """

    def __init__(self, labels_per_stack: int = 16):
        if labels_per_stack < 1:
            raise InputError(f"labels_per_stack = {labels_per_stack}", "at least 1", "correct it")
        self.labels_per_stack = labels_per_stack

    def run(self, task: Task) -> Outcome:
        """See `NetworkMethod.run`."""
        labels_NL = task.data.labels
        stacks = np.array_split(np.arange(labels_NL.shape[1]), -(-labels_NL.shape[1] // self.labels_per_stack))
        wanted = [
            Wanted(
                labels_NL[:, columns], number, f"binary relevance networks {columns[0]} to {columns[-1]}", False,
                alone=tuple(columns.tolist()), stream=0,
            )
            for number, columns in enumerate(stacks)
        ]  # fmt: skip
        answers, facts = _trained(task, wanted)
        return Outcome(np.concatenate(answers, axis=1), {**facts, "networks": labels_NL.shape[1]})


def _has_label(labels_NL: np.ndarray, partition: Partition) -> np.ndarray:
    columns = [labels_NL[:, partition.members(cluster)].any(axis=1) for cluster in range(partition.n_clusters)]
    return np.stack(columns, axis=1)


def _trained(task: Task, wanted: Sequence[Wanted]) -> tuple[list[np.ndarray], dict[str, Any]]:
    found = train_networks(task, wanted)
    records = [record for _, record in found]
    return [answer for answer, _ in found], {
        "networks": len(records),
        "epochs": float(np.mean([record["epochs"] for record in records])) if records else 0.0,
        "parameters": sum(record["parameters"] for record in records),
        "train_seconds": sum(record["seconds"] for record in records),
    }


def load_methods(cfg: DictConfig) -> dict[str, tuple[DictConfig, NetworkMethod | LabelScorer]]:
    """Reads and builds `configs/label_method/<name>.yaml` for each name of `cfg.methods`: resolved node and method.

    Raises:
        InputError: no method, an unknown one, or one named twice.
    """
    folder, names = CONFIGS / "label_method", list(cfg.methods)
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise InputError(f"methods = {names}", f"some of {', '.join(known)}, each once", "set methods")
    methods = {}
    for name in names:  # a file may refer to the partitioner of the command
        content = {"label_partitioner": cfg.label_partitioner, "method": OmegaConf.load(folder / f"{name}.yaml")}
        node = OmegaConf.create(content).method
        methods[name] = node, instantiate(node)
    return methods
