# SPDX-License-Identifier: MIT
"""Our decision: the sum of four kinds of evidence.

Axes: B probes, P routed clusters of a probe, T candidates, C classes of a cluster, K identities, D embedding dimension,
R directions.
"""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import local_metric
from lightning_modules.decisions import evidence
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.decisions.inside import decided_inside, identities_of, outputs_of, ranked_inside
from lightning_modules.scores import ProbeScores

logger = logging.getLogger(__name__)

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class Fused(Decision):
    """The class of most evidence among the candidates of the routed clusters.

    Four kinds of evidence for class c and a unit probe x add up to the score, as log-likelihoods of independent
    measurements would:

        score = w cos(x, mean_c) + (1 - w) cos(x, row_c) + g v(x, M_c) + h v(x, M),
        v(x, M) = -(x - t mean_c)' M (x - t mean_c) / 2 >= 0

    The class mean needs few samples. The trained row knows the other classes. v gives back what the plain distance
    takes for deviations that are usual around the class: M_c in [-I, 0] of `local_metric` is learned from the training
    samples of the class and of its neighbours in any cluster, M from those of all. w = 1, g = h = 0 is the nearest
    class mean, w = g = h = 0 is `Argmax` over cosines.

    `fit` chooses w, g, h and the strength of both M that make the right candidates of the validation probes most
    probable, see `evidence.choose`. Rows are left out if more than half of the identities have a single training
    sample: validation has no probe of these. If no validation probe has its identity among its candidates, training
    samples are the probes, see `evidence.of_training_samples`. If that finds none either, class means decide alone.

    Memory: R + R^2 / 2 floats per identity (18 kB at R = 96, nine times a row of D = 512). Time: two cosines per class
    of the routed clusters, R^2 products per candidate.

    Args:
        candidates: T, classes in each routed cluster with the highest score before v, for which v is measured.
        directions: R at most.
        pool, prior: degrees of freedom of a neighbourhood and of the covariance of all, see `local_metric.learn`.
        rows: whether trained rows count; without them no sub-network is needed and w = 1.
        weight: w, in [0, 1].
        gain, pooled_gain: g and h, at least 0.
        strength: of the metric, above 0, see `local_metric.metric`.
        factor: of the score under a softmax, above 0.
        basis_DR, projected_KR, metric_KRR, metric_RR: directions, t mean_c in them, M_c, M. These nine are set by
            `fit`; before it, class means decide alone.
    """

    needs_fit = True

    def __init__(
        self, candidates: int = 10, directions: int = 96, pool: int = 300, prior: int = 200, rows: bool = True,
        weight: float = 1.0, gain: float = 0.0, pooled_gain: float = 0.0, strength: float = 1.0, factor: float = 30.0,
        basis_DR: Tensor | None = None, projected_KR: Tensor | None = None, metric_KRR: Tensor | None = None,
        metric_RR: Tensor | None = None,
    ):  # fmt: skip
        if candidates < 1 or directions < 0 or pool < 1 or prior < 0:
            raise ValueError(
                f"got candidates {candidates}, directions {directions}, pool {pool}, prior {prior}; expected at least "
                "1, 0, 1, 0"
            )
        if not 0 <= weight <= 1 or min(gain, pooled_gain) < 0 or strength <= 0 or factor <= 0:
            raise ValueError(
                f"got weight {weight}, gains {gain} and {pooled_gain}, strength {strength}, factor {factor}; expected "
                "a weight in [0, 1], gains of at least 0, strength and factor above 0"
            )
        self.candidates, self.directions, self.pool, self.prior = candidates, directions, pool, prior
        self.rows = rows
        self.weight, self.gain, self.pooled_gain = weight, gain, pooled_gain
        self.strength, self.factor = strength, factor
        self.basis_DR, self.projected_KR = basis_DR, projected_KR
        self.metric_KRR, self.metric_RR = metric_KRR, metric_RR

    @property
    def needs_heads(self) -> bool:  # type: ignore[override]  # read-only where the base has an attribute
        return self.rows

    def fits(self, partition: Partition, dim: int) -> bool:
        if self.metric_KRR is None:
            return True
        k, r = partition.n_identities, self.basis_DR.shape[1]
        shapes = [tuple(x.shape) for x in (self.basis_DR, self.projected_KR, self.metric_KRR, self.metric_RR)]
        return shapes == [(dim, r), (k, r), (k, r, r), (r, r)]

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Looks into the routed clusters only; see `Decision.decide`. The score is like a cosine, a little above."""
        return decided_inside(scores, clusters_BP, lambda c, which_b: self._candidates(scores, c, which_b))

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """The candidates in order of their score, at most `candidates` of a routed cluster; see `Decision.rank`."""
        return ranked_inside(scores, clusters_BP, most, lambda c, which_b: self._candidates(scores, c, which_b))

    def _candidates(self, scores: ProbeScores, cluster: int, which_b: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        # Slices of which_b, scores of the candidates, their places in the cluster.
        identity_C = identities_of(scores, cluster)
        for block, output_bC, cosine_bC in outputs_of(scores, cluster, which_b):
            plain_bC = torch.lerp(output_bC, cosine_bC, self.weight)
            found_bT, class_bT = plain_bC.topk(min(self.candidates, plain_bC.shape[1]), dim=1)
            if self.metric_KRR is not None:
                identity_bT = identity_C[class_bT]
                probes_bR = scores.probes_BD[which_b[block]] @ self.basis_DR
                offset_bTR = probes_bR[:, None] - self.projected_KR[identity_bT]
                local_bT = local_metric.given_back(offset_bTR, identity_bT, [(0, self.metric_KRR)])
                pooled_bT = local_metric.given_back_alike(offset_bTR, self.metric_RR)
                found_bT = found_bT + self.gain * local_bT + self.pooled_gain * pooled_bT
            yield block, found_bT, class_bT

    def fit(self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, samples: TrainingSamples) -> "Fused":
        settings = (self.directions, self.pool, self.prior)
        learned = local_metric.learn(scores.class_means_KD, samples, *settings)
        found = evidence.of_probes(scores, clusters_BP, truth_B, learned, STRENGTHS, self.candidates)
        counts_K = np.bincount(samples.split.labels, minlength=len(scores.class_means_KD))
        chosen = evidence.choose(found, STRENGTHS, self.rows and bool(np.median(counts_K) >= 2))
        if chosen is None:
            found = evidence.of_training_samples(scores, samples, settings, STRENGTHS, self.candidates)
            chosen = evidence.choose(found, STRENGTHS, rows=False)
        chosen = chosen or evidence.EvidenceWeights(self.strength, (self.factor, 0.0, 0.0, 0.0))
        strength, (of_mean, of_row, *of_metrics) = chosen.strength, chosen.factors
        factor = max(of_mean + of_row, 1e-6)
        weight, gain, pooled_gain = of_mean / factor, *(of_metric / factor for of_metric in of_metrics)
        logger.info(
            "fused: class mean %.2f, row %.2f, metric of the class %.2f, of all %.2f, strength %g",
            weight, 1 - weight, gain, pooled_gain, strength,
        )  # fmt: skip

        metrics = [local_metric.metric(part, strength).half() for _, part in learned.covariances()]
        return Fused(
            self.candidates, self.directions, self.pool, self.prior, self.rows,
            weight, gain, pooled_gain, strength, factor,
            basis_DR=learned.basis_DR,
            projected_KR=learned.length * scores.class_means_KD @ learned.basis_DR,
            metric_KRR=torch.cat(metrics),
            metric_RR=local_metric.metric(learned.pooled_RR, strength),
        )  # fmt: skip
