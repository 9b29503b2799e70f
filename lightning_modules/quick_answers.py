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
DEVIATIONS = 2.5  # between row and class mean, in a direction that has nothing to do with it


class QuickAnswers:
    """Nearest class mean of an index, then the best row of its cluster, in calls that read as little as they can.

    First come the rows of the Q class means that the index compared. An identity outside them is less like the probe
    than the least of them. So the best of these rows is the answer if it is of the cluster and its cosine is above
    that of the least class mean by as much as the rows differ from their class means; else the whole head is looked
    at, in 8-bit codes, and its best Q rows again. Scores are exact cosines.

    Args:
        heads: linear, with one row for each identity; None answers the nearest class mean.
    """

    def __init__(
        self, search: IndexSearch, class_means_KD: np.ndarray, partition: Partition, heads: Heads | None
    ):  # fmt: skip
        self.search, self.rows_SD = search, None
        self.candidates = min(CANDIDATES, search.k) if heads else 1
        # The last place is that of nobody, -1.
        self.cluster_of = np.append(partition.cluster_of, -1).astype(np.int64)
        if heads is not None:
            self.rows_SD = np.ascontiguousarray(heads.linear("quick answers").numpy())
            self.identity_of = np.append(heads.identity_S.numpy(), -1)
            self.place_of = np.full(len(self.cluster_of), -1)
            self.place_of[self.identity_of[:-1]] = np.arange(len(self.rows_SD))
            cosine_K1 = products(np.ascontiguousarray(class_means_KD), self.rows_SD, self.place_of[:-1, None].copy())
            length = np.sqrt(2 - 2 * min(1.0, np.median(cosine_K1)))  # of the difference
            self.lead = np.float32(DEVIATIONS * length / np.sqrt(self.rows_SD.shape[1]))
            coded_SR = self.rows_SD if search.map_DR is None else self.rows_SD @ search.map_DR
            self.cells = faiss.IndexFlatIP(coded_SR.shape[1])  # never searched: the cluster is known
            self.cells.add(np.zeros((partition.n_clusters, coded_SR.shape[1]), np.float32))
            self.lists = inverted_lists(coded_SR, self.cells, self.cluster_of[self.identity_of[:-1]], "int8")

    def __call__(self, unit_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) int64 identities, float32 scores and int64 clusters of (B, D) contiguous float32 unit probes."""
        cosine_BQ, identity_BQ = self.search.candidates(unit_BD, self.candidates)
        # For a single probe NumPy takes longer than faiss: lookups by single numbers are its quickest.
        probe_B, best_B = (0 if len(unit_BD) == 1 else np.arange(len(unit_BD))), cosine_BQ.argmax(1)
        nearest_B = identity_BQ[probe_B, best_B]
        cluster_B = self.cluster_of[nearest_B]
        if self.rows_SD is None:
            return nearest_B, cosine_BQ[probe_B, best_B], cluster_B
        # Where fewer than Q were found the least is -inf, and there is doubt as well.
        least_B = np.abs(cosine_BQ[probe_B, cosine_BQ.argmin(1)])
        score_BQ = products(unit_BD, self.rows_SD, self.place_of[identity_BQ])
        best_B = score_BQ.argmax(1)
        score_B, identity_B = score_BQ[probe_B, best_B], identity_BQ[probe_B, best_B]
        doubt_B = (score_B < least_B + self.lead) | (self.cluster_of[identity_B] != cluster_B)
        if np.count_nonzero(doubt_B):
            score_B[doubt_B], identity_B[doubt_B] = self._whole_head(unit_BD[doubt_B], cluster_B[doubt_B, None])
        return identity_B, score_B, cluster_B

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
    faiss.fvec_norms_L2sqr(pointer(square_B), pointer(probes_BD), probes_BD.shape[1], len(probes_BD))  # type: ignore[attr-defined]
    if square_B[square_B.argmin()] > 1e-20 and square_B[square_B.argmax()] < 1e20:
        unit_BD = probes_BD.copy()
        faiss.fvec_renorm_L2(unit_BD.shape[1], len(unit_BD), pointer(unit_BD))  # type: ignore[attr-defined]
        return unit_BD, None
    wide_BD = probes_BD.astype(np.float64)
    square_B = np.einsum("bd,bd->b", wide_BD, wide_BD)
    lost_B = ~((square_B > 0) & (square_B < np.inf))
    if lost_B.any():
        wide_BD[lost_B], square_B[lost_B] = 0.0, 1.0
    wide_BD /= np.sqrt(square_B)[:, None]
    return wide_BD.astype(np.float32), lost_B
