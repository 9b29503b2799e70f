# SPDX-License-Identifier: MIT
"""Looks into routed clusters. Axes: B probes, P routed clusters of a probe, C classes of a cluster, D dimension."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_modules.decisions.base import Decided, Ranked
from lightning_modules.scores import ProbeScores, routed

BLOCK_ELEMENTS = 1 << 25  # outputs at a time: 128 MiB of float32

# For a cluster and the (b,) probes that look into it: slices of these probes, their (., T) scores, and the (., T)
# places of the candidates among the classes of the cluster.
Candidates = Callable[[int, Tensor], Iterator[tuple[slice, Tensor, Tensor]]]


def outputs_of(scores: ProbeScores, cluster: int, which_b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Outputs of the head of a cluster, some of the probes `which_b` at a time: a slice of them, and (., C)."""
    heads, classes = scores.heads, len(identities_of(scores, cluster))
    step = max(1, BLOCK_ELEMENTS // (classes * heads.rows_per_class))
    for start in range(0, len(which_b), step):
        block = slice(start, start + step)
        yield block, heads.scores(cluster, scores.probes_BD[which_b[block]])


def identities_of(scores: ProbeScores, cluster: int) -> Tensor:
    """(C,) int64 identities of a cluster, in the order of its head's classes."""
    heads = scores.heads
    if heads is None:
        return torch.from_numpy(scores.partition.members(cluster).astype("int64")).to(scores.class_means_KD.device)
    return heads.identities(cluster)


def best_of(score_BP: Tensor, identity_BP: Tensor, clusters_BP: Tensor) -> Decided:
    """The best of the answers found in the P routed clusters of each probe, (B, P) each."""
    score_B1, place_B1 = score_BP.max(1, keepdim=True)
    identity_B, cluster_B = (table_BP.gather(1, place_B1).squeeze(1) for table_BP in (identity_BP, clusters_BP))
    return Decided(identity_B, score_B1.squeeze(1), cluster_B)


def ranked_inside(scores: ProbeScores, clusters_BP: Tensor, most: int, candidates: Candidates) -> Ranked:
    """The best candidates over the routed clusters (B, P) of each probe, -1 for none; at most `most`."""
    b, p = clusters_BP.shape
    score_BX = torch.full((b, p * most), -torch.inf, device=clusters_BP.device)
    identity_BX = torch.full((b, p * most), -1, device=clusters_BP.device)
    for cluster, which_b, place_b in routed(clusters_BP):
        identity_C = identities_of(scores, cluster)
        for block, found_bT, class_bT in candidates(cluster, which_b):
            best_bt, order_bt = found_bT.topk(min(most, found_bT.shape[1]), dim=1)
            columns_t = torch.arange(best_bt.shape[1], device=score_BX.device)
            place = which_b[block][:, None], place_b[block][:, None] * most + columns_t
            score_BX[place], identity_BX[place] = best_bt, identity_C[class_bT.gather(1, order_bt)]
    score_BX, order_BX = score_BX.sort(dim=1, descending=True, stable=True)
    identity_BX, cluster_BX = identity_BX.gather(1, order_BX), clusters_BP.gather(1, order_BX // most)
    if scores.partition.overlapping and p > 1:  # an identity of two routed clusters counts at its better place
        earlier_BXX = torch.ones(p * most, p * most, dtype=torch.bool, device=score_BX.device).tril(-1)
        repeated_BX = ((identity_BX[:, :, None] == identity_BX[:, None]) & earlier_BXX).any(2)
        score_BX, order_BX = score_BX.masked_fill(repeated_BX, -torch.inf).sort(dim=1, descending=True, stable=True)
        identity_BX, cluster_BX = (table_BX.gather(1, order_BX) for table_BX in (identity_BX, cluster_BX))
    score_BT = score_BX[:, :most]
    return Ranked(identity_BX[:, :most].masked_fill(score_BT.isneginf(), -1), score_BT, cluster_BX[:, :most])
