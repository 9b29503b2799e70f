# SPDX-License-Identifier: MIT
"""ML-kNN. Axes: N rows, F features, L labels, k neighbours, C = k + 1 counts of neighbours."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from lightning_modules.baselines.multilabel_base import LabelScorer


class MLKNN(LabelScorer):
    """Zhang & Zhou, "ML-KNN: A lazy learning approach to multi-label learning", Pattern Recognition 40, 2007.

    With c the number of a row's k nearest neighbours that have the label, the score is P(label | c) by Bayes' rule:
    prior (s + rows with the label) / (2 s + N), likelihood (s + rows with the label and c) / (s (k + 1) + rows with
    the label), likewise for rows without (eqs. 6 to 8; k is lowered if there are fewer rows).
    """

    def __init__(self, k: int = 10, smoothing: float = 1.0):
        self.k, self.smoothing = k, smoothing

    def _fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int) -> None:
        n, s = len(labels_NL), self.smoothing
        self.used_k = min(self.k, n - 1)
        self.labels_NL = labels_NL
        self.index = NearestNeighbors(n_neighbors=self.used_k).fit(features_NF)
        counts_NL = self._counts(self.index.kneighbors(return_distance=False))  # a row is not its own neighbour
        prior_L = (s + labels_NL.sum(axis=0)) / (2 * s + n)
        with_LC, without_LC = (self._histogram(counts_NL, chosen) for chosen in (labels_NL, ~labels_NL))
        yes_LC, no_LC = (
            prior_L1 * (s + table_LC) / (s * (self.used_k + 1) + table_LC.sum(axis=1, keepdims=True))
            for prior_L1, table_LC in ((prior_L[:, None], with_LC), (1 - prior_L[:, None], without_LC))
        )
        self.posterior_LC = yes_LC / (yes_LC + no_LC)

    def _scores(self, features_NF: np.ndarray) -> np.ndarray:
        counts_NL = self._counts(self.index.kneighbors(features_NF, return_distance=False))
        return self.posterior_LC[np.arange(counts_NL.shape[1]), counts_NL]

    def _counts(self, neighbours_Nk: np.ndarray) -> np.ndarray:
        counts_NL = np.zeros((len(neighbours_Nk), self.labels_NL.shape[1]), np.int64)
        for column_N in neighbours_Nk.T:  # k passes instead of an N x k x L array
            counts_NL += self.labels_NL[column_N]
        return counts_NL

    def _histogram(self, counts_NL: np.ndarray, chosen_NL: np.ndarray) -> np.ndarray:
        """(L, k + 1): of each label, how many of the chosen rows have c neighbours with it."""
        width = self.used_k + 1
        rows, columns = np.nonzero(chosen_NL)
        cells = columns * width + counts_NL[rows, columns]
        return np.bincount(cells, minlength=counts_NL.shape[1] * width).reshape(-1, width)
