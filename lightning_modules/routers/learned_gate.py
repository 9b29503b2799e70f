# SPDX-License-Identifier: MIT
"""Routing by a small classifier over the clusters: M products per probe."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.routers.base import Router
from lightning_modules.scores import ProbeScores


class LearnedGate(Router):
    """The p clusters with the highest output of a multinomial logistic regression on the training samples.

    Minimises sum_n -log softmax(W x_n + b)[home cluster of n] + |W|^2 / (2 strength) (scikit-learn, L-BFGS). Unlike the
    cluster mean it knows the borders; unlike the nearest class it costs M, not K, products per probe.

    Args:
        p: clusters looked at, at least 1; more than M gives M.
        strength: C of scikit-learn, above 0; larger is less regularised.
        max_samples: training samples beyond so many are left out, drawn at random.
        weight_MD, bias_M: set by `fit`.
    """

    needs_fit = True

    def __init__(
        self, p: int = 1, strength: float = 1.0, max_samples: int = 100_000, weight_MD: Tensor | None = None,
        bias_M: Tensor | None = None,
    ):  # fmt: skip
        if p < 1 or strength <= 0 or max_samples < 1:
            got = f"got p {p}, strength {strength}, max_samples {max_samples}"
            raise ValueError(f"{got}; expected at least 1, above 0, 1")
        self.p, self.strength, self.max_samples = p, strength, max_samples
        self.weight_MD, self.bias_M = weight_MD, bias_M

    def fit(self, class_means_KD: Tensor, partition: Partition, samples: TrainingSamples, seed: int) -> "LearnedGate":
        """Learns on unit training samples and, so that no cluster is without one, the class means; see `Router.fit`."""
        drawn_ND, label_N = samples.drawn(self.max_samples, seed)
        rows = np.concatenate([drawn_ND, class_means_KD.cpu().numpy()])
        cluster_N = partition.cluster_of[np.concatenate([label_N, np.arange(len(class_means_KD))])]
        weight, bias = np.zeros((partition.n_clusters, rows.shape[1])), np.zeros(partition.n_clusters)
        if partition.n_clusters > 1:
            found = LogisticRegression(C=self.strength, max_iter=300).fit(rows, cluster_N)
            if partition.n_clusters > 2:
                weight, bias = found.coef_, found.intercept_
            else:  # scikit-learn keeps the difference of the two only
                weight[1], bias[1] = found.coef_[0], found.intercept_[0]
        tensors = (torch.from_numpy(part).float().to(class_means_KD.device) for part in (weight, bias))
        return LearnedGate(self.p, self.strength, self.max_samples, *tensors)

    def fits(self, partition: Partition, dim: int) -> bool:
        m = partition.n_clusters
        return self.weight_MD is None or (tuple(self.weight_MD.shape), tuple(self.bias_M.shape)) == ((m, dim), (m,))

    def route(self, scores: ProbeScores) -> Tensor:
        """The clusters of highest output; before `fit` those of highest cosine with their mean; see `Router.route`."""
        fitted = self.weight_MD is not None
        output_BM = scores.probes_BD @ self.weight_MD.T + self.bias_M if fitted else scores.centre_cosine_BM
        return output_BM.topk(min(self.p, output_BM.shape[1]), dim=1).indices
