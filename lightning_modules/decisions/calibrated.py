# SPDX-License-Identifier: MIT
"""Outputs of different sub-networks made comparable: softmax probabilities under a temperature of their own."""

from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.decisions.inside import identities_of, outputs_of, ranked_inside
from lightning_modules.scores import ProbeScores

HIGHEST = 80.0  # log-odds of a sub-network with a single class, which are infinite
RANGE = (0.1, 1000.0)  # of the factor; with no wrong probe the likelihood has no maximum


class Calibrated(Decision):
    """The class of highest calibrated probability inside the routed clusters; the score is its log-odds.

    p(class | x, cluster) = softmax(s_c z) over the outputs z of sub-network c, s_c = 1 / temperature (Guo et al., ICML
    2017, eq. 9). `fit` minimises the mean negative log-likelihood of the validation probes of that cluster's own
    identities. Log-odds log p / (1 - p) rank as p does and do not round to 1; those of a sub-network with a single
    class are 80. A sub-network without validation probes takes the factor of all probes together; without any, `factor`
    stays.

    Args:
        factor: s of a sub-network that nothing is known about, above 0.
        factor_M: s of each sub-network; set by `fit`.
    """

    needs_fit = True

    def __init__(self, factor: float = 30.0, factor_M: Tensor | None = None):
        if factor <= 0:
            raise ValueError(f"got factor {factor}; expected a number above 0")
        self.factor, self.factor_M = factor, factor_M

    def fits(self, partition: Partition, dim: int) -> bool:
        return self.factor_M is None or tuple(self.factor_M.shape) == (partition.n_clusters,)

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        return self.rank(scores, clusters_BP, 1).best

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """The highest probabilities of the routed heads, each of its own softmax; see `Decision.rank`."""
        return ranked_inside(scores, clusters_BP, most, lambda c, which_b: self._candidates(scores, c, which_b, most))

    def _candidates(
        self, scores: ProbeScores, cluster: int, which_b: Tensor, most: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        factor = self.factor if self.factor_M is None else float(self.factor_M[cluster])
        for block, output_bC in outputs_of(scores, cluster, which_b):
            z_bC = factor * output_bC
            best_b1, class_b1 = z_bC.max(1, keepdim=True)
            # log p of all but the best is precise, of the best only its distance to them: log p / (1 - p).
            odds_b1 = best_b1 - z_bC.scatter(1, class_b1, -torch.inf).logsumexp(1, keepdim=True)
            if most == 1:
                yield block, odds_b1.clamp_max(HIGHEST), class_b1
                continue
            log_p_bT, class_bT = z_bC.log_softmax(1).topk(min(most, z_bC.shape[1]), dim=1)
            odds_bT = log_p_bT - torch.log1p(-log_p_bT.exp().clamp_max(0.999999))
            yield block, torch.cat([odds_b1, odds_bT[:, 1:]], 1).clamp_max(HIGHEST), class_bT

    def fit(self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, samples: TrainingSamples) -> "Calibrated":
        per_cluster = [_own_probes(scores, cluster, truth_B) for cluster in range(scores.partition.n_clusters)]
        known = [own for own in per_cluster if own]
        together = best_factor([part for own in known for part in own]) if known else self.factor
        factors = [best_factor(own) if own else together for own in per_cluster]
        return Calibrated(self.factor, torch.tensor(factors, device=scores.probes_BD.device))


def _own_probes(scores: ProbeScores, cluster: int, truth_B: Tensor) -> list[tuple[Tensor, Tensor]]:
    # Outputs and local class of the probes whose identity belongs to the cluster; nothing for a single class.
    identity_C = identities_of(scores, cluster)
    if len(identity_C) < 2:
        return []
    class_B = torch.searchsorted(identity_C, truth_B).clamp_max(len(identity_C) - 1)
    which_b = (identity_C[class_B] == truth_B).nonzero().squeeze(1)
    return [(output_bC, class_B[which_b[block]]) for block, output_bC in outputs_of(scores, cluster, which_b)]


def best_factor(parts: list[tuple[Tensor, Tensor]]) -> float:
    """The factor s in `RANGE` of outputs z for which the mean of logsumexp(s z) - s z_true is least: convex in s.

    Bisection on the derivative, mean of (expected z under softmax(s z)) - z_true, which grows with s. Each part
    has (b, C) outputs and (b,) int64 true classes.
    """
    low, high = (torch.tensor(end).log().item() for end in RANGE)
    for _ in range(25):
        middle = (low + high) / 2
        factor, slope = torch.tensor(middle).exp(), 0.0
        for output_bC, class_b in parts:
            expected_b = ((factor * output_bC).softmax(1) * output_bC).sum(1)
            slope += float((expected_b - output_bC.gather(1, class_b[:, None]).squeeze(1)).double().sum())
        low, high = (middle, high) if slope <= 0 else (low, middle)
    return float(torch.tensor((low + high) / 2).exp())
