# SPDX-License-Identifier: MIT
"""Multi-label baselines by scikit-learn. Axes: N rows, F features, L labels, S distinct sets of labels."""

import warnings

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain as SklearnChain

from lightning_modules.baselines.multilabel_base import Infeasible, LabelScorer


class BinaryRelevance(LabelScorer):
    """One logistic regression per label, each alone. C is the inverse strength of the L2 penalty."""

    def __init__(self, C: float = 1.0):
        self.C = C

    def _fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int) -> None:
        # One column would be read as classes 0 and 1 of one task; OneVsRest gives them both a column then.
        regression = LogisticRegression(C=self.C, solver="liblinear", random_state=seed)
        self.model = OneVsRestClassifier(regression).fit(csr_matrix(features_NF), labels_NL.astype(int))

    def _scores(self, features_NF: np.ndarray) -> np.ndarray:
        scores_NL = self.model.predict_proba(csr_matrix(features_NF))
        return scores_NL[:, -1:] if len(self.varied) == 1 else scores_NL


class ClassifierChain(BinaryRelevance):
    """One logistic regression per label, which also sees the labels before it in a random order.

    Read, Pfahringer, Holmes & Frank, "Classifier chains for multi-label classification", ECML PKDD 2009. Training sees
    the true labels, prediction the predicted ones.
    """

    def _fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int) -> None:
        regression = LogisticRegression(C=self.C, solver="liblinear", random_state=seed)
        self.model = SklearnChain(regression, order="random", random_state=seed)
        self.model.fit(csr_matrix(features_NF), labels_NL.astype(int))


class LabelPowerset(LabelScorer):
    """One class per distinct set of labels; the score of a label is the probability of all sets that hold it.

    More than `max_sets` distinct sets in training are not feasible.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 30, max_sets: int = 6000):
        self.C, self.max_iter, self.max_sets = C, max_iter, max_sets

    def _fit(self, features_NF: np.ndarray, labels_NL: np.ndarray, seed: int) -> None:
        self.sets_SL, set_of_N = np.unique(labels_NL, axis=0, return_inverse=True)
        if len(self.sets_SL) > self.max_sets:
            raise Infeasible(f"{len(self.sets_SL)} distinct label sets, more than max_sets = {self.max_sets}")
        self.model = LogisticRegression(C=self.C, max_iter=self.max_iter, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is the bound that was asked for
            warnings.filterwarnings("ignore", message="The number of unique classes")  # label sets are that many
            self.model.fit(features_NF, set_of_N)

    def _scores(self, features_NF: np.ndarray) -> np.ndarray:
        probability_NS = self.model.predict_proba(features_NF)
        return np.clip(probability_NS @ self.sets_SL.astype(probability_NS.dtype), 0, 1)
