# SPDX-License-Identifier: MIT
"""The paper's answer, reading few rows. Axes: B probes, Q candidates, K identities, D dimension, S rows of heads."""

import math

import numpy as np
from torch import Tensor

from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import IndexSearch
from lightning_modules.indexes.faiss_search import products
from lightning_modules.scores import Heads

CANDIDATES = 16  # nearest class means whose rows of the head are compared
MANY = 1 << 17  # class means above which it is four times as many: of a million 0.1 % of the best rows are not among 32
NEAR = 0.6  # median cosine of rows and class means from which on that is safe; after 50 epochs it is 0.73 on LFW
SOME_ROWS = 10_000  # rows from which the median is measured
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]


class QuickAnswers:
    """Nearest class mean of an index, then the best row of its cluster among those of the nearest class means.

    The rest of the head is not read: its best row hardly ever belongs to another class mean. Scores are exact cosines.

    Args:
        heads: linear, with one row for each identity; None answers the nearest class mean.
    """

    def __init__(self, search: IndexSearch, partition: Partition, heads: Heads | None):
        self.search, self.rows_SD, self.most = search, None, min(search.k, search.more)
        self.compared = self.most
        # The last place is that of nobody, -1.
        self.cluster_of = np.append(partition.cluster_of, -1).astype(np.int64)
        if heads is not None:
            self.rows_SD = np.ascontiguousarray(heads.linear("quick answers").numpy())
            self.most = min(search.k, max(search.more, CANDIDATES if search.k <= MANY else 4 * CANDIDATES))
            self.place_of = np.full(len(self.cluster_of), -1, np.int64)
            self.place_of[heads.identity_S.numpy()] = np.arange(len(self.rows_SD))

    def __call__(self, unit_BD: np.ndarray) -> Answer:
        """(B,) int64 identities, float32 scores and int64 clusters of (B, D) contiguous float32 unit probes."""
        score_BQ, identity_BQ = self.search.candidates(unit_BD, self.most, self.compared)
        if len(unit_BD) == 1 and (answer := self._single(unit_BD, score_BQ, identity_BQ)):
            return answer
        probe_B, best_B = np.arange(len(unit_BD)), score_BQ.argmax(1)
        cluster_B = self.cluster_of[identity_BQ[probe_B, best_B]]
        if self.rows_SD is not None:
            place_BQ = np.where(self.cluster_of[identity_BQ] == cluster_B[:, None], self.place_of[identity_BQ], -1)
            score_BQ = products(unit_BD, self.rows_SD, place_BQ)
            best_B = score_BQ.argmax(1)
        return identity_BQ[probe_B, best_B], score_BQ[probe_B, best_B], cluster_B

    def _single(self, unit_1D: np.ndarray, score_1Q: np.ndarray, identity_1Q: np.ndarray) -> Answer | None:
        # NumPy takes longer for sixteen numbers than faiss for its search: so rows of other clusters are compared as
        # well, and None asks for their removal if one of them is the best.
        best = score_1Q.argmax()
        found = identity_1Q.item(best)
        cluster = self.cluster_of.item(found)
        if self.rows_SD is not None:
            score_1Q = products(unit_1D, self.rows_SD, self.place_of[identity_1Q])
            best = score_1Q.argmax()
            found = identity_1Q.item(best)
            if self.cluster_of.item(found) != cluster:
                return None
        return np.array([found]), score_1Q[0, best : best + 1], np.array([cluster])


def near_class_means(heads: Heads, class_means_KD: Tensor) -> bool:
    """Whether the best row of a head is nearly always that of one of the nearest class means."""
    some = slice(0, None, max(1, len(heads.identity_S) // SOME_ROWS))
    cosine_X = (heads.rows_SD[some] * class_means_KD[heads.identity_S[some]]).sum(1)
    return bool(cosine_X.median() >= NEAR)


def unit_rows(probes_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`unit_probes` of contiguous NumPy arrays, (B, D) float32; and (B,) bool, which rows are zeros, None for none."""
    if len(probes_BD) == 1 and 1e-20 < (square := probes_BD[0].dot(probes_BD[0])) < 1e20:
        return probes_BD / math.sqrt(square), None
    square_B = np.einsum("bd,bd->b", probes_BD, probes_BD)
    if square_B.min() > 1e-20 and square_B.max() < 1e20:
        return probes_BD / np.sqrt(square_B)[:, None], None
    wide_BD = probes_BD.astype(np.float64)
    square_B = np.einsum("bd,bd->b", wide_BD, wide_BD)
    lost_B = ~((square_B > 0) & (square_B < np.inf))
    if lost_B.any():
        wide_BD[lost_B], square_B[lost_B] = 0.0, 1.0
    wide_BD /= np.sqrt(square_B)[:, None]
    return wide_BD.astype(np.float32), lost_B
