# SPDX-License-Identifier: MIT
"""Ours: class mean, trained row and the variation around the class, weighed by what validation says they are worth.

Axes: B probes, P routed clusters of a probe, T candidates, C classes of a cluster, S classes of all clusters,
G groups of classes, M clusters, D embedding dimension, R directions.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import local_metric
from lightning_modules.decisions import evidence
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.decisions.inside import identities_of, outputs_of, ranked_inside, routed
from lightning_modules.scores import ProbeScores

logger = logging.getLogger(__name__)

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)


class Fused(Decision):
    """The class of most evidence among the candidates of the routed clusters.

    Four kinds of evidence for class c and a unit probe x add up to the score, as log-likelihoods of independent
    measurements would:

        score = w cos(x, mean_c) + (1 - w) cos(x, row_c) + g v(x, M_c) + h v(x, M),
        v(x, M) = -(x - t mean_c)' M (x - t mean_c) / 2 >= 0

    The class mean needs few samples. The trained row knows the other classes. v gives back what the plain distance
    takes for deviations that are usual around the class: M_c in [-I, 0] of `local_metric.LocalCovariance` is learned
    from the training samples of the class and of its neighbours, M from those of the whole cluster. w = 1, g = h = 0
    is the nearest class mean, w = g = h = 0 is `Argmax` over cosines.

    `fit` chooses w, g, h and the strength of both M where the mean log-probability of the validation probes, the
    softmax of factor x score over their candidates, is highest: convex in the four factors, kept at 0 or above, for
    each of five strengths (McFadden's conditional logit, 1974). It rewards clear answers as well as right ones, so
    that it can tell settings apart where hardly a probe is answered wrongly.
    A weak prior, worth one probe, holds a handful of probes near the class mean. Where no validation probe has its
    identity among its candidates, the training samples themselves are the probes, each against the mean of its class
    without it, and rows, which have seen them, get no weight; where no class has two training samples either, class
    means decide alone.

    Memory: R floats per class and R^2 / 2 per group of classes. Time: two cosines per class of the routed clusters, R^2
    products per candidate.

    Args:
        candidates: T, classes in each routed cluster with the highest score before v, for which v is measured.
        directions: R at most.
        pool: degrees of freedom of the neighbourhood of a class, see `local_metric.learn`.
        prior: degrees of freedom for which the cluster's covariance counts beside it.
        shared_by: similar classes that share a covariance, on average.
        weight: w, in [0, 1].
        gain, pooled_gain: g and h, at least 0.
        strength: of the metric, above 0, see `LocalCovariance.metric`.
        factor: of the score under a softmax, above 0.
        basis_MDR, projected_SR, metric_GRR, group_S, metric_MRR: directions, t mean_c in them, M_c, the group of each
            class, M. These ten are set by `fit`; before it, class means decide alone.
    """

    needs_fit = True

    def __init__(
        self,
        candidates: int = 10,
        directions: int = 96,
        pool: int = 300,
        prior: int = 200,
        shared_by: int = 1,
        weight: float = 1.0,
        gain: float = 0.0,
        pooled_gain: float = 0.0,
        strength: float = 1.0,
        factor: float = 30.0,
        basis_MDR: Tensor | None = None,
        projected_SR: Tensor | None = None,
        metric_GRR: Tensor | None = None,
        group_S: Tensor | None = None,
        metric_MRR: Tensor | None = None,
    ):
        if candidates < 1 or directions < 0 or pool < 1 or prior < 0 or shared_by < 1:
            raise ValueError(
                f"got candidates {candidates}, directions {directions}, pool {pool}, prior {prior}, shared_by "
                f"{shared_by}; expected at least 1, 0, 1, 0, 1"
            )
        if not 0 <= weight <= 1 or min(gain, pooled_gain) < 0 or strength <= 0 or factor <= 0:
            raise ValueError(
                f"got weight {weight}, gains {gain} and {pooled_gain}, strength {strength}, factor {factor}; expected "
                "a weight in [0, 1], gains of at least 0, strength and factor above 0"
            )
        self.candidates, self.directions, self.pool, self.prior = candidates, directions, pool, prior
        self.shared_by = shared_by
        self.weight, self.gain, self.pooled_gain = weight, gain, pooled_gain
        self.strength, self.factor = strength, factor
        self.basis_MDR, self.projected_SR, self.metric_GRR, self.group_S = basis_MDR, projected_SR, metric_GRR, group_S
        self.metric_MRR = metric_MRR

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Looks into the routed clusters only; see `Decision.decide`. The score is like a cosine, a little above."""
        b, p = clusters_BP.shape
        score_BP = torch.full((b, p), -torch.inf, device=clusters_BP.device)
        identity_BP = torch.full((b, p), -1, device=clusters_BP.device)
        for cluster, which_b, place_b in routed(clusters_BP):
            identity_C = identities_of(scores, cluster)
            for block, found_bT, class_bT in self._candidates(scores, cluster, which_b):
                # Of equal scores the lower identity: candidates of equal score come in any order.
                best_b = found_bT.amax(1)
                tied_bT = class_bT.masked_fill(found_bT < best_b[:, None], len(identity_C))
                score_BP[which_b[block], place_b[block]] = best_b
                identity_BP[which_b[block], place_b[block]] = identity_C[tied_bT.amin(1)]
        score_B1, place_B1 = score_BP.max(1, keepdim=True)
        return Decided(
            identity_BP.gather(1, place_B1).squeeze(1), score_B1.squeeze(1), clusters_BP.gather(1, place_B1).squeeze(1)
        )

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """The candidates in order of their score, at most `candidates` of a routed cluster; see `Decision.rank`."""
        return ranked_inside(scores, clusters_BP, most, lambda c, which_b: self._candidates(scores, c, which_b))

    def _candidates(self, scores: ProbeScores, cluster: int, which_b: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        # Slices of which_b, scores of the candidates, their places in the cluster.
        start = scores.heads.starts[cluster] // scores.heads.rows_per_class
        for block, output_bC, cosine_bC in outputs_of(scores, cluster, which_b):
            plain_bC = torch.lerp(output_bC, cosine_bC, self.weight)
            found_bT, class_bT = plain_bC.topk(min(self.candidates, plain_bC.shape[1]), dim=1)
            if self.metric_GRR is not None:
                probes_bR = scores.probes_BD[which_b[block]] @ self.basis_MDR[cluster]
                offset_bTR = probes_bR[:, None] - self.projected_SR[start + class_bT]
                group_bT = self.group_S[start + class_bT]
                found_bT = found_bT + self.gain * local_metric.given_back(offset_bTR, self.metric_GRR, group_bT)
                pooled_bT = local_metric.given_back(offset_bTR, self.metric_MRR[cluster])
                found_bT = found_bT + self.pooled_gain * pooled_bT
            yield block, found_bT, class_bT

    def fit(self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, samples: TrainingSamples) -> "Fused":
        """Learns covariances cluster by cluster, then chooses strength and weights; see `Decision.fit`."""
        members = [scores.partition.members(cluster) for cluster in range(scores.partition.n_clusters)]
        learned = [
            local_metric.learn_cluster(
                scores.class_means_KD, one, samples, self.directions, self.pool, self.prior, self.shared_by
            )
            for one in members
        ]
        found = evidence.of_probes(scores, clusters_BP, truth_B, learned, STRENGTHS, self.candidates)
        rows_count = found.right_BX.any()
        if not rows_count:
            found = evidence.of_training_samples(scores, samples, learned, STRENGTHS, self.candidates)
        best = (-torch.inf, self.strength, [self.factor, 0.0, 0.0, 0.0])
        if not rows_count:
            found.row_BX.zero_()
        for place, strength in enumerate(STRENGTHS):
            factors, probability = evidence.best_weights(found.kinds(place), found.right_BX)
            if probability > best[0]:
                best = probability, strength, factors.tolist()
        strength, (of_mean, of_row, *of_metrics) = best[1:]
        factor = max(of_mean + of_row, 1e-6)
        weight, gain, pooled_gain = of_mean / factor, *(of_metric / factor for of_metric in of_metrics)
        logger.info(
            "fused: class mean %.2f, row %.2f, metric of the class %.2f, of the cluster %.2f, strength %g",
            weight, 1 - weight, gain, pooled_gain, strength,
        )  # fmt: skip

        r = max(one.basis_DR.shape[1] for one in learned)
        groups = torch.tensor([0, *(len(one.covariance_GRR) for one in learned)]).cumsum(0).tolist()
        wider = [r - one.basis_DR.shape[1] for one in learned]  # zeros change nothing
        means = [scores.class_means_KD[identities_of(scores, cluster)] for cluster in range(len(learned))]
        return Fused(
            self.candidates, self.directions, self.pool, self.prior, self.shared_by,
            weight, gain, pooled_gain, strength, factor,
            basis_MDR=torch.stack([F.pad(one.basis_DR, (0, w)) for one, w in zip(learned, wider, strict=True)]),
            projected_SR=torch.cat([
                F.pad(one.length * mean_CD @ one.basis_DR, (0, w))
                for mean_CD, one, w in zip(means, learned, wider, strict=True)
            ]),
            metric_GRR=torch.cat([
                F.pad(one.metric(strength), (0, w, 0, w)).half() for one, w in zip(learned, wider, strict=True)
            ]),
            group_S=torch.cat([one.group_C + start for one, start in zip(learned, groups, strict=False)]),
            metric_MRR=torch.stack([
                F.pad(one.pooled_metric(strength), (0, w, 0, w)) for one, w in zip(learned, wider, strict=True)
            ]),
        )  # fmt: skip
