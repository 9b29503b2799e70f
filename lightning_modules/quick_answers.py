# SPDX-License-Identifier: MIT
"""The paper's answer, reading few rows.

Axes: B probes, K identities, Q candidates, D embedding dimension, R directions, S rows of all heads.
"""

import faiss
import numpy as np

from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import IndexSearch
from lightning_modules.indexes.faiss_search import inverted_lists, products
from lightning_modules.scores import Heads

CANDIDATES = 16
LEAD = 0.03  # a cosine; see docs/benchmarks.md for the share of answers that it changes


class QuickAnswers:
    """Nearest class mean of an index, then the best row of its cluster, in calls that read as little as they can.

    The row of an identity is taken to score at most `LEAD` above the cosine of its class mean. First comes the row of
    the nearest class mean. Only rows of class means that are not `LEAD` below its score can be better; they are looked
    at if they are among the Q that the index compared. If even the least of these Q is not as far below the best, the
    whole head is looked at, in 8-bit codes, and its best Q rows again. Scores are exact cosines.

    Args:
        heads: linear, with one row for each identity; None answers the nearest class mean.
    """

    def __init__(self, search: IndexSearch, partition: Partition, heads: Heads | None):
        self.search, self.rows_SD = search, None
        self.candidates = min(CANDIDATES, search.k) if heads else 1
        # The last place is that of nobody, -1.
        self.cluster_of = np.append(partition.cluster_of, -1).astype(np.int64)
        if heads is not None:
            self.rows_SD = np.ascontiguousarray(heads.linear("quick answers").numpy())
            self.identity_of = np.append(heads.identity_S.numpy(), -1)
            self.place_of = np.full(len(self.cluster_of), -1)
            self.place_of[self.identity_of[:-1]] = np.arange(len(self.rows_SD))
            coded_SR = self.rows_SD if search.map_DR is None else self.rows_SD @ search.map_DR
            self.cells = faiss.IndexFlatIP(coded_SR.shape[1])  # never searched: the cluster is known
            self.cells.add(np.zeros((partition.n_clusters, coded_SR.shape[1]), np.float32))
            self.lists = inverted_lists(coded_SR, self.cells, self.cluster_of[self.identity_of[:-1]], "int8")

    def __call__(self, unit_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) int64 identities, float32 scores and int64 clusters of (B, D) contiguous float32 unit probes."""
        cosine_BQ, identity_BQ = self.search.candidates(unit_BD, self.candidates)
        probe_B, best_B = (0 if len(unit_BD) == 1 else np.arange(len(unit_BD))), cosine_BQ.argmax(1)
        identity_B = identity_BQ[probe_B, best_B]
        cluster_B = self.cluster_of[identity_B]
        if self.rows_SD is None:
            return identity_B, cosine_BQ[probe_B, best_B], cluster_B
        score_B1 = products(unit_BD, self.rows_SD, self.place_of[identity_B, None])
        # Where fewer than Q were found the others are -inf: nobody knows what they could be.
        could_BQ = np.abs(cosine_BQ) > score_B1 - LEAD
        if np.count_nonzero(could_BQ) > 1:
            b = np.flatnonzero(could_BQ.sum(1) > 1)
            unsure = unit_BD[b], cosine_BQ[b], identity_BQ[b], could_BQ[b], cluster_B[b]
            identity_B[b], score_B1[b, 0] = self._better(*unsure)
        return identity_B, score_B1[:, 0], cluster_B

    def _better(
        self, unit_bD: np.ndarray, cosine_bQ: np.ndarray, identity_bQ: np.ndarray, could_bQ: np.ndarray,
        cluster_b: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        could_bQ &= self.cluster_of[identity_bQ] == cluster_b[:, None]
        score_bQ = products(unit_bD, self.rows_SD, np.where(could_bQ, self.place_of[identity_bQ], -1))
        best_b, probe_b = score_bQ.argmax(1), np.arange(len(unit_bD))
        score_b, identity_b = score_bQ[probe_b, best_b], identity_bQ[probe_b, best_b]
        if (doubt_b := np.abs(cosine_bQ.min(1)) > score_b - LEAD).any():
            score_b[doubt_b], identity_b[doubt_b] = self._whole_head(unit_bD[doubt_b], cluster_b[doubt_b, None])
        return identity_b, score_b

    def _whole_head(self, unit_bD: np.ndarray, cluster_b1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        coded_bR = unit_bD if self.search.map_DR is None else unit_bD @ self.search.map_DR
        no_cosine_b1 = np.zeros(cluster_b1.shape, np.float32)
        _, place_bQ = self.lists.search_preassigned(coded_bR, self.candidates, cluster_b1, no_cosine_b1)
        score_bQ = products(unit_bD, self.rows_SD, place_bQ)
        best_b, probe_b = score_bQ.argmax(1), np.arange(len(unit_bD))
        return score_bQ[probe_b, best_b], self.identity_of[place_bQ[probe_b, best_b]]


def unit_rows(probes_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`unit_probes` of contiguous NumPy arrays, (B, D) float32; and (B,) bool, which rows are zeros, None for none."""
    square_B, pointer = np.empty(len(probes_BD), np.float32), faiss.swig_ptr
    faiss.fvec_norms_L2sqr(pointer(square_B), pointer(probes_BD), probes_BD.shape[1], len(probes_BD))
    if square_B[square_B.argmin()] > 1e-20 and square_B[square_B.argmax()] < 1e20:
        unit_BD = probes_BD.copy()
        faiss.fvec_renorm_L2(unit_BD.shape[1], len(unit_BD), pointer(unit_BD))
        return unit_BD, None
    wide_BD = probes_BD.astype(np.float64)
    square_B = np.einsum("bd,bd->b", wide_BD, wide_BD)
    lost_B = ~((square_B > 0) & (square_B < np.inf))
    if lost_B.any():
        wide_BD[lost_B], square_B[lost_B] = 0.0, 1.0
    wide_BD /= np.sqrt(square_B)[:, None]
    return wide_BD.astype(np.float32), lost_B
