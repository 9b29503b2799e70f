# SPDX-License-Identifier: MIT
"""Linear classifiers of scikit-learn. Axes: N samples, K identities, D embedding dimension."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning

from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Infeasible, Predictor, unit_rows


class ScikitLinear(Baseline):
    """A linear estimator of scikit-learn on unit embeddings, all in memory.

    C, the inverse strength of the penalty, is the one of `strengths` whose model names most validation samples rightly,
    the smallest of equals. Without validation samples the middle one is taken.

    Args:
        estimator: makes an unfitted estimator that ends with `coef_` (K, D), `intercept_` (K,) and `classes_`.
        most_identities: more are refused, since the time grows with K N D.
        strengths: values of C to choose from, ascending; empty keeps that of the estimator.
    """

    def __init__(self, estimator: Callable[[], Any], most_identities: int = 2000, strengths: Sequence[float] = ()):
        if most_identities < 1 or min(strengths, default=1) <= 0:
            raise ValueError(f"got most_identities = {most_identities}, strengths = {strengths}; expected above 0")
        if strengths and "C" in (given := getattr(estimator, "keywords", {})):
            wanted = f"expected strengths=[{given['C']}] alone"
            raise ValueError(f"got C = {given['C']} of the estimator beside strengths; {wanted}")
        self.estimator, self.most_identities, self.strengths = estimator, most_identities, strengths

    def fit(self, task: BaselineTask) -> Predictor:
        if task.n_identities > self.most_identities:
            raise Infeasible(f"{task.n_identities} identities, more than most_identities = {self.most_identities}")
        strengths: Sequence[float | None] = self.strengths or [None]
        if not len(task.val):
            strengths = [strengths[len(strengths) // 2]]
        rows_ND, labels_N = (part.numpy() for part in unit_rows(task.train))
        models = [self._fitted(rows_ND, labels_N, strength, task.seed) for strength in strengths]
        if len(models) > 1:
            rows_ND, labels_N = (part.numpy() for part in unit_rows(task.val))
            model = max(models, key=lambda one: one.score(rows_ND, labels_N))  # the first of equals
        else:
            (model,) = models
        weight_KD, offset_K = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if len(weight_KD) == 1 and task.n_identities == 2:  # two classes have one hyperplane
            weight_KD, offset_K = torch.cat([-weight_KD, weight_KD]), torch.cat([-offset_K, offset_K])
        parameters = weight_KD.numel() + offset_K.numel()
        return ByScore(lambda probes_BD: probes_BD @ weight_KD.T + offset_K, task.n_identities, parameters)

    def _fitted(self, rows_ND: Any, labels_N: Any, strength: float | None, seed: int) -> Any:
        model = self.estimator()
        if strength is not None:
            model.set_params(C=strength)
        if "random_state" in model.get_params():
            model.set_params(random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is an argument
            return model.fit(rows_ND, labels_N)
