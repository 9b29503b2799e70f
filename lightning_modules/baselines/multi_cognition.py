# SPDX-License-Identifier: MIT
"""Multi-cognition softmax: several independent softmax models on different shuffles of the identities, averaged.

Axes: B probes, K identities, D embedding dimension, S rows of all heads of a unit.
"""

import torch
from torch import Tensor

from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.random import RandomPartitioner
from lightning_modules.baselines.base import Baseline, ByScore, Predictor, Task
from lightning_modules.scores import Heads


class MultiCognition(Baseline):
    """u cognition units, each the independent softmax model (ISM) on another shuffle; class scores are averaged.

    Xu et al., "High Performance Large Scale Face Recognition with Multi-Cognition Softmax and Feature Retrieval",
    ICCV Workshops 2017. Within a unit an identity's score is the cosine with its row in the one sub-network that holds
    it, so that u = 1 is ISM with max-max over cosines, exactly. The first unit's sub-networks are those of the ISM
    scenario. The number of units is not known from the paper. Its feature retrieval (agreement of auxiliary models)
    is not part of this.

    Args:
        units: u, at least 1.
    """

    def __init__(self, units: int = 3):
        if units < 1:
            raise ValueError(f"got units = {units}; expected at least 1")
        self.units = units

    def partitioners(self) -> list[Partitioner]:
        """u random partitions; see `Baseline.partitioners`."""
        return [RandomPartitioner(shuffle=unit) for unit in range(self.units)]

    def fit(self, task: Task) -> Predictor:
        """Nothing is left to learn; see `Baseline.fit`."""
        heads = [heads for _, heads in task.ensembles]
        parameters = sum(head.rows_SD.numel() for head in heads)
        if all(head.rows_per_class == 1 for head in heads):
            # The mean of cosines with unit rows is one product with the mean of the rows.
            rows_KD = torch.stack([_by_identity(head, task.n_identities) for head in heads]).mean(0)
            return ByScore(lambda probes_BD: probes_BD @ rows_KD.T, task.n_identities, parameters)

        def scores(probes_BD: Tensor) -> Tensor:
            return torch.stack([class_scores(probes_BD, head, task.n_identities) for head in heads]).mean(0)

        return ByScore(scores, task.n_identities, parameters)


def class_scores(probes_BD: Tensor, heads: Heads, n_identities: int) -> Tensor:
    """Output of every identity in the sub-network that holds it; the highest, where several rows stand for one.

    Args:
        probes_BD: (B, D) unit probes.
        heads: of a partition of all identities.
        n_identities: K.

    Returns:
        (B, K) float32.
    """
    output_BS = probes_BD @ heads.rows_SD.T
    lowest_BK = output_BS.new_full((len(probes_BD), n_identities), -torch.inf)
    return lowest_BK.scatter_reduce(1, heads.identity_S.expand_as(output_BS), output_BS, "amax")


def _by_identity(heads: Heads, n_identities: int) -> Tensor:
    rows_KD = torch.empty(n_identities, heads.rows_SD.shape[1])
    rows_KD[heads.identity_S] = heads.rows_SD
    return rows_KD
