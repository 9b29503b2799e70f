# SPDX-License-Identifier: MIT
"""Answers to test probes, in numbers. Axes: N samples, B probes, K identities, M clusters."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.splits import Split
from lightning_modules.baselines.base import Predictor
from lightning_modules.decisions.base import Decided
from lightning_modules.identifier import PROBES_AT_ONCE, Identifier
from lightning_modules.kernels import matmul_precision
from lightning_modules.metrics.base import Metric
from lightning_modules.metrics.identification import IdentificationMetrics
from lightning_modules.routers.base import Router

TIMED_PROBES = 1024


def evaluate(
    identifier: Identifier | Predictor, embedding_set: EmbeddingSet, test: Split, further: Sequence[Metric] = ()
) -> tuple[dict[str, float | None], np.ndarray]:
    """What `measured` gives of the answers to test probes."""
    found = [identifier.decide(rows) for rows, _ in blocks(embedding_set, test)]
    parts = zip(*((one.identity_B, one.score_B, one.cluster_B) for one in found), strict=True)
    return measured(Decided(*map(torch.cat, parts)), test, identifier.partition.n_identities, further)


def measured(
    answer: Decided, test: Split, n_identities: int, further: Sequence[Metric] = ()
) -> tuple[dict[str, float | None], np.ndarray]:
    """Accuracy and macro precision, recall, F1 of answers in percent, and further metrics, not yet updated.

    Returns the metrics, None if one does not apply, and the (K,) recalls in percent, NaN for one without test sample.

    Raises InputError: a metric in percent outside 0 to 100.
    """
    metrics, truth_N = IdentificationMetrics(n_identities), torch.from_numpy(test.labels.astype(np.int64))
    metrics.update(answer.identity_B, truth_N)
    for metric in further:
        metric.update(answer, truth_N)
    values: dict[str, float | None] = {name: float(value) for name, value in metrics.compute().items()}
    for metric in further:
        value = float(metric.compute())
        if metric.unit == "percent" and not (math.isnan(value) or 0 <= value <= 100 + 1e-6):
            raise InputError(f"{metric.name} = {value}", "0 to 100, as its unit is percent", "correct the metric")
        values[metric.name] = value if math.isfinite(value) else None
    return values, metrics.recall_K().numpy()


def index_agreement(
    exact: Identifier, identifier: Identifier, embedding_set: EmbeddingSet, test: Split
) -> float | None:
    """Share of test probes, in percent, that are named alike with and without an index; None without one."""
    if not identifier.uses_index:
        return None
    alike = [
        (exact.decide(rows).identity_B == identifier.decide(rows).identity_B).float()
        for rows, _ in blocks(embedding_set, test)
    ]
    return 100 * float(torch.cat(alike).mean())


def cluster_accuracy(identifier: Identifier, router: Router, embedding_set: EmbeddingSet, split: Split) -> float:
    """Share of samples, in percent, whose first choice of cluster holds their identity."""
    member_of, hits = memberships(identifier.partition), 0
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


def memberships(partition: Partition) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of (B,) clusters and (B,) identities that tells, as (B,) bool, whether the one holds the other."""
    if not partition.overlapping:
        return lambda cluster, identity: partition.cluster_of[identity] == cluster
    pairs = {(int(i), int(c)) for i, c in partition.extra} | set(enumerate(partition.cluster_of.tolist()))
    return lambda cluster, identity: np.array(
        [(int(i), int(c)) in pairs for i, c in zip(identity, cluster, strict=True)], dtype=bool
    )


def blocks(embedding_set: EmbeddingSet, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Some samples of a split at a time: (B, D) float32 embeddings as stored and (B,) int64 enrolled identities."""
    for start in range(0, len(split), PROBES_AT_ONCE):
        block = slice(start, start + PROBES_AT_ONCE)
        rows = np.array(embedding_set.embeddings[split.rows[block]], dtype=np.float32)
        yield torch.from_numpy(rows), torch.from_numpy(split.labels[block].astype(np.int64))
