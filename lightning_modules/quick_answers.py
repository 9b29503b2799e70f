# SPDX-License-Identifier: MIT
"""The paper's answer, reading few rows. Axes: B probes, Q candidates, K identities, D dimension."""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import IndexSearch, Rows
from lightning_modules.indexes.faiss_search import products
from lightning_modules.scores import Heads

NEAR = 0.6  # median cosine of rows and class means from which on that is safe; after 50 epochs it is 0.73 on LFW
SOME_ROWS = 10_000  # rows from which the median is measured
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]


class QuickAnswers:
    """Of the few identities that an index finds, the best row of the cluster of the nearest class mean.

    The rest of the head is not read. Scores are exact cosines.

    Args:
        search: finds the best rows if there are rows, else the nearest class means.
        rows: of linear heads; None answers the nearest class mean.
    """

    def __init__(self, search: IndexSearch, partition: Partition, rows: Rows | None):
        self.search, self.rows, self.most = search, rows, min(search.k, search.more)
        # The last place is that of nobody, -1.
        self.cluster_of = np.append(partition.cluster_of, -1).astype(np.int64)

    def __call__(self, unit_BD: np.ndarray) -> Answer:
        """(B,) int64 identities, float32 scores and int64 clusters of (B, D) contiguous float32 unit probes."""
        score_BQ, identity_BQ = self.search.candidates(unit_BD, self.most)
        if len(unit_BD) == 1 and (answer := self._single(unit_BD, score_BQ, identity_BQ)):
            return answer
        probe_B, best_B = np.arange(len(unit_BD)), score_BQ.argmax(1)
        cluster_B = self.cluster_of[identity_BQ[probe_B, best_B]]
        if self.rows:
            here_BQ = np.where(self.cluster_of[identity_BQ] == cluster_B[:, None], identity_BQ, -1)
            score_BQ = products(unit_BD, self.rows.rows_KD, self.rows.place_of[here_BQ])
            best_B = score_BQ.argmax(1)
        return identity_BQ[probe_B, best_B], score_BQ[probe_B, best_B], cluster_B

    def _single(self, unit_1D: np.ndarray, score_1Q: np.ndarray, identity_1Q: np.ndarray) -> Answer | None:
        # NumPy takes longer for sixteen numbers than faiss for its search: so rows of other clusters are compared as
        # well, and None asks for their removal if one of them is the best.
        best = score_1Q.argmax()
        found = identity_1Q.item(best)
        cluster = self.cluster_of.item(found)
        if self.rows:
            score_1Q = products(unit_1D, self.rows.rows_KD, self.rows.place_of[identity_1Q])
            best = score_1Q.argmax()
            found = identity_1Q.item(best)
            if self.cluster_of.item(found) != cluster:
                return None
        return np.array([found]), score_1Q[0, best : best + 1], np.array([cluster])


def near_class_means(heads: Heads, class_means_KD: Tensor) -> bool:
    """Whether the nearest class mean is nearly always that of one of the best rows of the heads."""
    some = slice(0, None, max(1, len(heads.identity_S) // SOME_ROWS))
    cosine_X = torch.cosine_similarity(heads.rows_SD[some], class_means_KD[heads.identity_S[some]])
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
