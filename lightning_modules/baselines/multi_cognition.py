# SPDX-License-Identifier: MIT
"""Multi-cognition softmax. Axes: B probes, K identities, D embedding dimension, S rows of all heads."""

import torch
from torch import Tensor

from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.random import RandomPartitioner
from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Predictor
from lightning_modules.scores import Heads


class MultiCognition(Baseline):
    """The mean score of u units, each the independent softmax model (ISM) on another shuffle of the identities.

    Xu et al., "High Performance Large Scale Face Recognition with Multi-Cognition Softmax and Feature Retrieval", ICCV
    Workshops 2017, without its feature retrieval. Within a unit an identity's score is the cosine with its row in the
    one sub-network that holds it, so that u = 1 is ISM with max-max over cosines. The paper does not say u.

    Args:
        units: u, at least 1.
    """

    def __init__(self, units: int = 3):
        if units < 1:
            raise ValueError(f"got units = {units}; expected at least 1")
        self.units = units

    def partitioners(self) -> list[Partitioner]:
        return [RandomPartitioner(shuffle=unit) for unit in range(self.units)]

    def fit(self, task: BaselineTask) -> Predictor:
        heads = [heads for _, heads in task.ensembles]
        parameters = sum(head.parameters for head in heads)
        if all(head.rows_SD is not None and head.rows_per_class == 1 for head in heads):
            # The mean of cosines with unit rows is one product with the mean of the rows.
            rows_KD = torch.stack([head.rows_SD[head.identity_S.argsort()] for head in heads]).mean(0)
            return ByScore(lambda probes_BD: probes_BD @ rows_KD.T, task.n_identities, parameters)
        k = task.n_identities
        return ByScore(lambda x_BD: torch.stack([class_scores(x_BD, head, k) for head in heads]).mean(0), k, parameters)


def class_scores(probes_BD: Tensor, heads: Heads, n_identities: int) -> Tensor:
    """Score of every identity in the sub-network that holds it, for unit probes: (B, K) float32."""
    score_BK = probes_BD.new_empty(len(probes_BD), n_identities)
    for cluster in range(heads.partition.n_clusters):
        score_BK[:, heads.identities(cluster)] = heads.scores(cluster, probes_BD)
    return score_BK
