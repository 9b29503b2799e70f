# SPDX-License-Identifier: MIT
"""Base of the multi-label baselines that are no networks. Axes: N rows, F features, L labels."""

from abc import ABC, abstractmethod

import numpy as np


class LabelScorer(ABC):
    """Scores every label of a row. Hyper-parameters in `__init__`, data in `fit`; the second fit forgets the first.

    Labels that no training row has, or all have, are left to the base class: their score is 0 or 1.
    """

    def fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int = 0) -> "LabelScorer":
        """Learns from float32 features in [0, 1] and bool labels. Raises Infeasible: data of this size is too much."""
        self.share_L = labels_NL.mean(axis=0)
        self.varied = np.flatnonzero((self.share_L > 0) & (self.share_L < 1))
        if len(self.varied):
            self._fit(features_NF, labels_NL[:, self.varied], seed)
        return self

    def scores(self, features_NF: np.ndarray) -> np.ndarray:
        """(N, L) float32 in [0, 1]."""
        scores_NL = np.tile((self.share_L == 1).astype(np.float32), (len(features_NF), 1))
        if len(self.varied):
            scores_NL[:, self.varied] = self._scores(features_NF)
        return scores_NL

    @abstractmethod
    def _fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int) -> None:
        """`fit` for labels that have rows with and without them."""

    @abstractmethod
    def _scores(self, features_NF: np.ndarray) -> np.ndarray:
        """`scores` for those labels."""


class Infeasible(Exception):
    """A method that cannot do with data of this size; the message says why."""
