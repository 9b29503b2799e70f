# SPDX-License-Identifier: MIT
"""The paper's answer, reading few rows.

Axes: B probes, Q rows compared again, D embedding dimension, R directions, S rows of all heads.
"""

import faiss
import numpy as np

from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import IndexSearch
from lightning_modules.indexes.faiss_search import inverted_lists, products
from lightning_modules.scores import Heads

CANDIDATES = 16  # rows of a head that are compared again, unrounded
BATCHED = 8  # probes of a cluster from which on a matrix product of them takes less time than their searches


class QuickAnswers:
    """Nearest class mean of an index, then the best row of its cluster, in calls that read as little as they can.

    The head of the cluster is searched in 8-bit codes, a quarter of the bytes, or for many probes in the directions of
    the index, and its best 16 rows again. Scores are exact cosines.

    Args:
        heads: linear, with one row for each identity; None answers the nearest class mean.
    """

    def __init__(self, search: IndexSearch, partition: Partition, heads: Heads | None):
        self.search, self.rows_SD = search, None
        # The last place is that of nobody, -1.
        self.cluster_of = np.append(partition.cluster_of, -1).astype(np.int64)
        if heads is not None:
            self.rows_SD = np.ascontiguousarray(heads.linear("quick answers").numpy())
            self.identity_of, self.starts = np.append(heads.identity_S.numpy(), -1), heads.starts
            self.coded_SR = self.rows_SD if search.mapped is None else search.mapped.apply(self.rows_SD)
            self.cells = faiss.IndexFlatIP(self.coded_SR.shape[1])  # never searched: the cluster is known
            self.cells.add(np.zeros((partition.n_clusters, self.coded_SR.shape[1]), np.float32))
            self.lists = inverted_lists(self.coded_SR, self.cells, self.cluster_of[self.identity_of[:-1]], "int8")

    def __call__(self, unit_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) int64 identities, float32 scores and int64 clusters of (B, D) contiguous float32 unit probes."""
        cosine_BQ, identity_BQ = self.search.candidates(unit_BD, min(self.search.more, self.search.k))
        # For a single probe NumPy takes longer than faiss: lookups by single numbers are its quickest.
        probe_B, best_B = (0 if len(unit_BD) == 1 else np.arange(len(unit_BD))), cosine_BQ.argmax(1)
        nearest_B = identity_BQ[probe_B, best_B]
        cluster_B = self.cluster_of[nearest_B]
        if self.rows_SD is None:
            return nearest_B, cosine_BQ[probe_B, best_B], cluster_B
        coded_BR = unit_BD if self.search.mapped is None else self.search.mapped.apply(unit_BD)
        place_BQ = self._best_rows(coded_BR, cluster_B)
        score_BQ = products(unit_BD, self.rows_SD, place_BQ)
        best_B = score_BQ.argmax(1)
        return self.identity_of[place_BQ[probe_B, best_B]], score_BQ[probe_B, best_B], cluster_B

    def _best_rows(self, coded_BR: np.ndarray, cluster_B: np.ndarray) -> np.ndarray:
        # (B, Q) int64 places of the best rows of the head of each probe's cluster, -1 fills up.
        if len(coded_BR) < BATCHED or len(coded_BR) < BATCHED * len(found := np.unique(cluster_B)):
            no_cosine_B1 = np.zeros((len(coded_BR), 1), np.float32)
            return self.lists.search_preassigned(coded_BR, CANDIDATES, cluster_B[:, None], no_cosine_B1)[1]
        place_BQ = np.full((len(coded_BR), CANDIDATES), -1, np.int64)
        for cluster in found[found >= 0]:
            which_b, start, end = np.flatnonzero(cluster_B == cluster), self.starts[cluster], self.starts[cluster + 1]
            rows_CR, most = self.coded_SR[start:end], min(CANDIDATES, end - start)
            best_bq = faiss.knn(coded_BR[which_b], rows_CR, most, metric=faiss.METRIC_INNER_PRODUCT)[1]
            place_BQ[which_b, : best_bq.shape[1]] = start + best_bq
        return place_BQ


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
