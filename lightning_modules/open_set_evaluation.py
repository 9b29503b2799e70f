# SPDX-License-Identifier: MIT
"""How a scenario errs. Axes: B mated probes, Q probes of unknown persons, K identities, M clusters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.splits import Split, Splits
from lightning_modules import open_set
from lightning_modules.decisions.base import Decided
from lightning_modules.evaluation import blocks, memberships
from lightning_modules.identifier import Identifier

RANKS = 20
FPIRS = (0.01, 0.001)
_COLUMNS = (
    "threshold", "fpir_seen", "fpir_on_others", "tpir", "tpir_low", "tpir_high", "fnir",
    "wrong_cluster", "wrong_class", "under_threshold",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """The answers of a scenario to N probes."""

    decided: Decided
    rank_N: np.ndarray  # of the true identity, from 1; 0 if it is not among the first 20
    reached_N: np.ndarray  # whether a cluster of the true identity was looked into
    # (N,) float32 each, higher is more certain: `own` of the decision, `class_mean` the cosine with the class mean of
    # the answer, `lead` before the second candidate, if the decision names one.
    scores: dict[str, np.ndarray]


def answers(identifier: Identifier, embedding_set: EmbeddingSet, split: Split) -> Answers:
    """Asks for the names of probes. `rank_N` and `reached_N` mean something for enrolled persons only."""
    member_of, parts = memberships(identifier.partition), []
    for rows, truth_b in blocks(embedding_set, split):
        ranked, clusters_bP = identifier.rank(rows, RANKS)
        identity_b = ranked.identity_BT[:, 0]
        right_bT = ranked.identity_BT == truth_b[:, None]
        rank_b = torch.where(right_bT.any(1), right_bT.int().argmax(1) + 1, 0)
        mean_bD = identifier.class_means_KD[identity_b]
        scores = {"own": ranked.score_BT[:, 0], "class_mean": (torch.nn.functional.normalize(rows) * mean_bD).sum(1)}
        if ranked.score_BT.shape[1] > 1:
            second_b = ranked.score_BT[:, 1]
            scores["lead"] = torch.where(second_b.isneginf(), torch.inf, ranked.score_BT[:, 0] - second_b)
        reached_b = np.ones(len(rows), bool)
        if clusters_bP is not None and int(truth_b.max()) < identifier.partition.n_identities:
            looked = [member_of(c.clamp_min(0).numpy(), truth_b.numpy()) & (c >= 0).numpy() for c in clusters_bP.T]
            reached_b = np.any(looked, axis=0)
        best = identity_b, scores["own"], ranked.cluster_BT[:, 0]
        parts.append((rank_b.numpy(), reached_b, {k: v.numpy() for k, v in scores.items()}, best))
    rank, reached = (np.concatenate([part[i] for part in parts]) for i in range(2))
    scores_N = {k: np.concatenate([part[2][k] for part in parts]) for k in parts[0][2]}
    decided = Decided(*map(torch.cat, zip(*(part[3] for part in parts), strict=True)))
    return Answers(decided, rank, reached, scores_N)


def error_rows(found: Answers, recall_K: np.ndarray, identifier: Identifier, **labels: Any) -> list[dict]:
    """The row of details/errors.csv: the errors of closed-set identification, and the worst cluster.

    `recall_K` is in percent, NaN for an identity that was not tested.
    """
    right_N = found.rank_N == 1
    recalls = [recall_K[identifier.partition.members(c)] for c in range(identifier.partition.n_clusters)]
    recall_M = np.array([np.nanmean(r) if np.isfinite(r).any() else np.nan for r in recalls])
    return [{
        **labels,
        "correct": 100 * right_N.mean(),
        "wrong_cluster": 100 * (~right_N & ~found.reached_N).mean(),
        "wrong_class": 100 * (~right_N & found.reached_N).mean(),
        "worst_cluster": int(np.nanargmin(recall_M)),
        "worst_cluster_recall": float(np.nanmin(recall_M)),
    }]  # fmt: skip


def rank_rows(found: Answers, **labels: Any) -> list[dict]:
    """Rows of details/cmc.csv: the share of test probes whose identity is among the first k, in percent."""
    rates = open_set.cumulative_match(found.rank_N, RANKS)
    return [{**labels, "rank": k, "identification_rate": 100 * float(rate)} for k, rate in enumerate(rates, 1)]


def open_set_rows(
    found: Answers, identifier: Identifier, embedding_set: EmbeddingSet, splits: Splits, **labels: Any
) -> tuple[list[dict], list[dict]]:
    """Rows of details/open_set.csv and details/det.csv: one per score and FPIR, and the points of the DET curves.

    An FPIR that the probes of unknown persons cannot tell has a row that says so in `unresolved`, and no rates.
    `labels` are columns that say which scenario and cell; `seed` is also that of the bootstrap.
    """
    unknown, rows, curves = answers(identifier, embedding_set, splits.unknown), [], []
    for name in (name for name in found.scores if name in unknown.scores):
        searches = open_set.Searches(
            found.scores[name], found.rank_N == 1, found.reached_N, splits.test.labels,
            unknown.scores[name], splits.unknown.labels,
        )  # fmt: skip
        of_score = {**labels, "score": name}
        for fpir in FPIRS:
            row = {**of_score, "fpir": 100 * fpir, "mated": len(splits.test), "non_mated": len(splits.unknown)}
            rows.append(row | _rates(searches, fpir, labels["seed"]))
        for fpir, fnir in zip(*open_set.det_curve(searches), strict=True):
            curves.append({**of_score, "fpir": 100 * float(fpir), "fnir": 100 * float(fnir)})
    return rows, curves


def _rates(searches: open_set.Searches, fpir: float, seed: int) -> dict[str, Any]:
    try:
        open_set.check_fpir(fpir, len(searches.score_Q))
    except InputError as error:
        return {**dict.fromkeys(_COLUMNS), "unresolved": f"{error.got}, needs {error.expected}"}
    point = open_set.operating_point(searches, open_set.threshold_at_fpir(searches.score_Q, fpir))
    low, high = open_set.bootstrap_tpir(searches, fpir, np.random.default_rng([seed, 6]))
    shares = (
        point.fpir, open_set.fpir_on_others(searches, fpir), point.tpir, low, high, 1 - point.tpir,
        point.wrong_cluster, point.wrong_class, point.under_threshold,
    )  # fmt: skip
    values = (point.threshold, *(100 * share for share in shares))
    return {**dict(zip(_COLUMNS, values, strict=True)), "unresolved": ""}
