# SPDX-License-Identifier: MIT
"""Rows of results.csv and details/*.csv, from the records of sub-networks and from recalls.

Axes: K identities, M clusters.
"""

import statistics
from typing import Any

import numpy as np
import torch

from datamodules.partitioners.base import Partition
from lightning_modules.scores import cluster_centres


def training_columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Epochs, seconds, memory in MiB and parameters of the sub-networks of a scenario.

    `epoch_seconds_*` are the median over epochs of each sub-network: serial is their sum, parallel (a device for each)
    their maximum.
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
    """Rows of details/history.csv: one per sub-network and epoch, each with the labels."""
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
    """Rows of details/clusters.csv: size, similarities and mean recall of each cluster.

    The similarity within is the mean cosine of the class means with the centre of their cluster; between, with the
    closest other centre.

    Args:
        recall_K: recall of each identity in percent; NaN without a test sample.
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
