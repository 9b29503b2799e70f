# SPDX-License-Identifier: MIT
"""Linear classifiers of scikit-learn, where the number of identities lets them end.

Axes: N samples, K identities, D embedding dimension.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning

from lightning_modules.baselines.base import Baseline, ByScore, Infeasible, Predictor, Task, unit_rows


class ScikitLinear(Baseline):
    """A linear estimator of scikit-learn on unit embeddings, all in memory.

    Args:
        estimator: makes an unfitted estimator that ends with `coef_` (K, D), `intercept_` (K,) and `classes_`.
        most_identities: above so many identities the fit is refused, since its time grows with K N D.
    """

    def __init__(self, estimator: Callable[[], Any], most_identities: int = 2000):
        if most_identities < 1:
            raise ValueError(f"got most_identities = {most_identities}; expected at least 1")
        self.estimator, self.most_identities = estimator, most_identities

    def fit(self, task: Task) -> Predictor:
        if task.n_identities > self.most_identities:
            raise Infeasible(f"{task.n_identities} identities, more than most_identities = {self.most_identities}")
        rows_ND, labels_N = unit_rows(task.train)
        model = self.estimator()
        if "random_state" in model.get_params():
            model.set_params(random_state=task.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are an argument, and so a choice
            model.fit(rows_ND.numpy(), labels_N.numpy())
        weight_KD = torch.from_numpy(model.coef_).float()
        offset_K = torch.from_numpy(model.intercept_).float()
        if len(weight_KD) == 1 and task.n_identities == 2:  # two classes have one hyperplane
            weight_KD, offset_K = torch.cat([-weight_KD, weight_KD]), torch.cat([-offset_K, offset_K])
        return ByScore(
            lambda probes_BD: probes_BD @ weight_KD.T + offset_K,
            task.n_identities,
            weight_KD.numel() + offset_K.numel(),
        )
