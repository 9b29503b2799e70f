# SPDX-License-Identifier: MIT
"""From an Identifier and test probes to a row of results.csv and the details beside it.

Axes: N samples, B probes, K identities, M clusters.
"""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.splits import Split
from experiments.coordination.scenarios import load_node
from experiments.reporting.columns import KNOWN, Column
from lightning_modules.baselines.base import Predictor
from lightning_modules.identifier import PROBES_AT_ONCE, Identifier
from lightning_modules.kernels import matmul_precision
from lightning_modules.metrics.base import Metric
from lightning_modules.metrics.identification import IdentificationMetrics
from lightning_modules.routers.base import Router
from lightning_modules.scores import cluster_centres

TIMED_PROBES = 1024


def load_metrics(names: list[str]) -> dict[Column, dict[str, Any]]:
    """Reads `configs/metric/<name>.yaml` for each name and builds it once, before anything is written.

    Returns:
        From the column of each metric to its Hydra node.

    Raises:
        InputError: an unknown metric, a node that is none, or a column without a name of its own.
    """
    found: dict[Column, dict[str, Any]] = {}
    for name in names:
        node = OmegaConf.to_container(load_node("metric", name), resolve=True)
        metric = instantiate(node)
        if not isinstance(metric, Metric):
            raise InputError(f"metric {name} with {node}", "a _target_ below Metric", f"correct metric/{name}.yaml")
        taken = {*KNOWN, "run", "data", "method", "seeds", *(column.name for column in found)}
        if not re.fullmatch("[a-z][a-z0-9_]*", metric.name) or metric.name in taken:
            raise InputError(
                f"metric {name} with the column {metric.name!r}", "a name of a-z, 0-9 and _ that no other column has",
                "name each metric once, and correct its attribute `name`",
            )  # fmt: skip
        about = (metric.unit, metric.title, int(metric.digits), bool(metric.higher_is_better))
        found[Column(metric.name, "metric", *about)] = node
    return found


def evaluate(
    identifier: Identifier | Predictor, embedding_set: EmbeddingSet, test: Split,
    further: dict[Column, dict[str, Any]] | None = None,
) -> tuple[dict[str, float | None], np.ndarray]:  # fmt: skip
    """Accuracy and macro precision, recall, F1 on test probes, and those of `load_metrics`.

    Returns:
        The metrics, accuracy to F1 in percent, None for what does not apply; and (K,) recall of each identity in
        percent, NaN where it has no test sample.

    Raises:
        InputError: a metric in percent outside 0 to 100.
    """
    metrics = IdentificationMetrics(identifier.partition.n_identities)
    others: dict[Column, Metric] = {column: instantiate(node) for column, node in (further or {}).items()}
    for rows, truth in blocks(embedding_set, test):
        answer = identifier.decide(rows)
        metrics.update(answer.identity_B, truth)
        for metric in others.values():
            metric.update(answer, truth)
    values: dict[str, float | None] = {name: float(value) for name, value in metrics.compute().items()}
    for column, metric in others.items():
        value = float(metric.compute())
        if column.unit == "percent" and not (math.isnan(value) or 0 <= value <= 100 + 1e-6):
            raise InputError(f"{column.name} = {value}", "0 to 100, as its unit is percent", "correct the metric")
        values[column.name] = value if math.isfinite(value) else None
    return values, metrics.recall_K().numpy()


def index_agreement(
    exact: Identifier, identifier: Identifier, embedding_set: EmbeddingSet, test: Split
) -> float | None:
    """Share of test probes, in percent, that are named alike with and without an index; None where there is none."""
    if not identifier.uses_index:
        return None
    alike = [
        (exact.decide(rows).identity_B == identifier.decide(rows).identity_B).float()
        for rows, _ in blocks(embedding_set, test)
    ]
    return 100 * float(torch.cat(alike).mean())


def cluster_accuracy(identifier: Identifier, router: Router, embedding_set: EmbeddingSet, split: Split) -> float:
    """Share of samples, in percent, whose first choice of cluster holds their identity."""
    member_of = memberships(identifier.partition)
    hits = 0
    for rows, truth in blocks(embedding_set, split):
        with torch.inference_mode(), matmul_precision("highest"):
            cluster_B = router.route(identifier.scores(rows))[:, 0]
        hits += int(member_of(cluster_B.numpy(), truth.numpy()).sum())
    return 100 * hits / len(split)


def query_microseconds(identifier: Identifier | Predictor, embedding_set: EmbeddingSet, test: Split) -> float:
    """Microseconds per probe in a batch of the first 1,024 (or fewer), the median of five."""
    rows = torch.from_numpy(np.array(embedding_set.embeddings[test.rows[:TIMED_PROBES]], dtype=np.float32))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        identifier.decide(rows)
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times[1:]) / len(rows)


def training_columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Epochs, seconds, memory and parameters of the sub-networks of a scenario.

    An epoch's seconds are the median over the epochs of each sub-network; serial is their sum over sub-networks,
    parallel (each on a device of its own) their maximum.
    """
    if not records:
        return {}
    seconds = [statistics.median(epoch["time/epoch_seconds"] for epoch in record["history"]) for record in records]
    return {
        "epochs": max(record["epochs"] for record in records),
        "epoch_seconds_serial": sum(seconds),
        "epoch_seconds_parallel": max(seconds),
        "train_seconds": sum(record["seconds"] for record in records),
        "peak_memory_mb": max(record["peak_memory_mb"] for record in records),
        "parameters": sum(record["parameters"] for record in records),
    }


def history_rows(records: list[dict[str, Any]], **labels: Any) -> list[dict[str, Any]]:
    """Rows of details/history.csv: one per sub-network and epoch, the labels in each."""
    rows = []
    for record in records:
        elapsed = 0.0
        for epoch in record["history"]:
            elapsed += epoch.get("time/epoch_seconds", 0.0)
            rows.append({
                **labels, "cluster": record["cluster"], "epoch": epoch["epoch"],
                "train_loss": epoch.get("train/loss"), "val_accuracy": epoch.get("val/accuracy_percent"),
                "epoch_seconds": epoch.get("time/epoch_seconds"),
                "samples_per_second": epoch.get("time/samples_per_second"), "seconds_since_start": elapsed,
            })  # fmt: skip
    return rows


def cluster_rows(
    partition: Partition, class_means_KD: np.ndarray, recall_K: np.ndarray, **labels: Any
) -> list[dict[str, Any]]:
    """Rows of details/clusters.csv: size, similarity within and between, mean recall, one per cluster.

    Within is the mean cosine of a cluster's class means with its own centre, between that with the closest other.

    Args:
        recall_K: recall of each identity in percent, NaN without a test sample.
    """
    means = torch.from_numpy(class_means_KD)
    centres = cluster_centres(means, partition)
    rows = []
    for cluster in range(partition.n_clusters):
        members = partition.members(cluster)
        cosine_M = (means[members.astype(np.int64)] @ centres.T).mean(0)
        others = torch.cat([cosine_M[:cluster], cosine_M[cluster + 1 :]])
        recall = recall_K[members]
        rows.append({
            **labels,
            "cluster": cluster,
            "size": len(members),
            "within_similarity": float(cosine_M[cluster]),
            "between_similarity": float(others.max()) if len(others) else None,
            "test_recall": float(np.nanmean(recall)) if np.isfinite(recall).any() else None,
        })  # fmt: skip
    return rows


def memberships(partition: Partition) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of (B,) clusters and (B,) identities that tells, as (B,) bool, whether the one holds the other."""
    if not partition.overlapping:
        return lambda cluster, identity: partition.cluster_of[identity] == cluster
    pairs = {(int(i), int(c)) for i, c in partition.extra} | set(enumerate(partition.cluster_of.tolist()))
    return lambda cluster, identity: np.array(
        [(int(i), int(c)) in pairs for i, c in zip(identity, cluster, strict=True)], dtype=bool
    )


def blocks(embedding_set: EmbeddingSet, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Samples of a split, so many at a time that memory stays bounded.

    Returns:
        Pairs of (B, D) float32 embeddings as stored and (B,) int64 enrolled identities.
    """
    for start in range(0, len(split), PROBES_AT_ONCE):
        block = slice(start, start + PROBES_AT_ONCE)
        rows = np.array(embedding_set.embeddings[split.rows[block]], dtype=np.float32)
        yield torch.from_numpy(rows), torch.from_numpy(split.labels[block].astype(np.int64))
