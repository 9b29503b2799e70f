# SPDX-License-Identifier: MIT
"""Our decision: the sum of four kinds of evidence, learned from training samples; no head is trained.

Axes: B probes, P routed clusters of a probe, T candidates, C classes of a cluster, J = 4 kinds of evidence, N samples,
K identities, D embedding dimension, R directions.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import local_metric
from lightning_modules.decisions import evidence
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.decisions.inside import identities_of, ranked_inside
from lightning_modules.local_metric import LocalMetric
from lightning_modules.scores import ProbeScores

logger = logging.getLogger(__name__)

BLOCK_PROBES = 8192


class Metric(Decision):
    """The class of most evidence among the candidates of the routed clusters.

    Four kinds of evidence for class c and a unit probe x add up to the score, as log-likelihoods of independent
    measurements would:

        score = (f1 cos(x, mean_c) + f2 v_c(x) + f3 (1 + (cos(x, mean_c) - 1) tau_c) + f4 max_i cos(x, x_ci))
                / (f1 + f3 + f4)
        v_c(x) = (|o|^2 - o' (I + a W_c)^-1 o) / 2 >= 0,  o = x - t mean_c

    v gives back what the plain distance takes for deviations that are usual around the class: W_c is the covariance of
    the training samples of the class and of its neighbours in any cluster, see `local_metric`. tau_c says how close
    the samples of the class are to each other, see `evidence.tightness`; x_ci are its training samples. f = (1, 0, 0,
    0) is the nearest class mean.

    `fit` chooses f and the strength a under which the right classes of training samples are most probable, each
    sample against its class without it, in two folds of the identities, see `evidence.of_training_samples`. If the
    evidence does not repair more of their answers than it breaks by two standard deviations (sign test), class means
    decide alone. Validation samples are not used.

    W_c differs little from the covariance of all. Only candidates that can still win get their own: those whose score
    by the covariance of all is at most `margin` below the best. The margin is the largest change of such a difference
    that was seen among the training samples.

    Memory: 2 R bytes for each of at most 16 samples of an identity, and 4 R bytes: at most 3.6 kB at R = 96. Time: a
    cosine per class of the routed clusters; per candidate a covariance of about `pool` samples and its factors, which
    are kept for the next probes.

    Args:
        candidates: T, classes of highest cosine in each routed cluster for which evidence is measured.
        directions: R at most.
        pool, prior: degrees of freedom of a neighbourhood and of the covariance of all, see `local_metric.learn`.
        strength: a, above 0.
        margin: of scores, see above.
        length, factors_J, learned: of `local_metric.LocalMetric`. `fit` sets these, strength and margin; before it,
            class means decide alone.
    """

    needs_fit = True
    needs_heads = False

    def __init__(
        self, candidates: int = 10, directions: int = 96, pool: int = 300, prior: int = 200, strength: float = 1.0,
        margin: float = 1e9, length: float = 1.0, factors_J: Tensor | None = None, **learned: Any,
    ):  # fmt: skip
        if candidates < 1 or directions < 0 or pool < 1 or prior < 0 or strength <= 0:
            raise ValueError(
                f"got candidates {candidates}, directions {directions}, pool {pool}, prior {prior}, strength "
                f"{strength}; expected at least 1, 0, 1, 0, and above 0"
            )
        self.candidates, self.directions, self.pool, self.prior = candidates, directions, pool, prior
        self.strength, self.margin, self.length, self.factors_J = strength, margin, length, factors_J
        vars(self).update(learned)
        self._local = None if factors_J is None else LocalMetric(**learned, length=length, prior=prior)

    def fits(self, partition: Partition, dim: int) -> bool:
        if self._local is None or self.factors_J is None:
            return True
        local, k, r = self._local, partition.n_identities, self._local.basis_DR.shape[1]
        of_identities = local.start_K, local.projected_KR, local.mean_length_K, local.count_K
        tensors = local.basis_DR, local.whole_RR, *of_identities, self.factors_J
        same = [tuple(x.shape) for x in tensors] == [(dim, r), (r, r), (k + 1,), (k, r), (k,), (k,), (4,)]
        return same and len(local.near_Kj) == k and tuple(local.centred_NR.shape) == (int(local.start_K[-1]), r)

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Looks into the routed clusters only; see `Decision.decide`. The score is like a cosine, a little above."""
        return self.rank(scores, clusters_BP, 1).best

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """The candidates in order of their score, at most `candidates` of a routed cluster; see `Decision.rank`."""
        return ranked_inside(scores, clusters_BP, most, lambda c, which_b: self._candidates(scores, c, which_b, most))

    def _candidates(
        self, scores: ProbeScores, cluster: int, which_b: Tensor, most: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        # Slices of which_b, scores of the candidates, their places in the cluster. A candidate that is not among the
        # best `most`, whatever its own covariance says, has score -inf.
        identity_C = identities_of(scores, cluster)
        means_CD = scores.class_means_KD.index_select(0, identity_C)
        for start in range(0, len(which_b), BLOCK_PROBES):
            block = slice(start, start + BLOCK_PROBES)
            unit_bD = scores.probes_BD[which_b[block]]
            found_bT, class_bT = (unit_bD @ means_CD.T).topk(min(self.candidates, len(identity_C)), dim=1)
            if self._local is not None and self.factors_J is not None:
                identity_bT = identity_C[class_bT]
                kinds_JbT, offset_bTR = evidence.kinds(self._local, unit_bD, found_bT, identity_bT, self.strength)
                kinds_JbT[2] += 1
                share_J = self.factors_J / (self.factors_J.sum() - self.factors_J[1])
                found_bT = torch.einsum("j,jbt->bt", share_J, kinds_JbT)
                least_b1 = found_bT.topk(min(most, found_bT.shape[1]), dim=1).values[:, -1:] - self.margin
                asked_bT = found_bT >= least_b1
                own_N = self._local.given_back(offset_bTR[asked_bT], identity_bT[asked_bT], (self.strength,))[0]
                found_bT[asked_bT] += share_J[1] * (own_N - kinds_JbT[1][asked_bT])
                found_bT.masked_fill_(~asked_bT, -torch.inf)
            yield block, found_bT, class_bT

    def fit(self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, samples: TrainingSamples) -> "Metric":
        settings = self.directions, self.pool, self.prior
        plain = Metric(self.candidates, *settings)
        parts = [
            evidence.of_training_samples(scores, samples, fold, settings, evidence.STRENGTHS, self.candidates)
            for fold in (0, 1)
        ]
        kinds_SJBX, right_BX = torch.cat([kinds for kinds, _ in parts], 2), torch.cat([right for _, right in parts])
        if not right_BX.any():
            logger.info("metric: no training sample can be a probe, class means decide alone")
            return plain
        found = [evidence.best_weights(kinds_JBX[:4], right_BX) for kinds_JBX in kinds_SJBX]
        best = int(np.argmax([probability for _, probability in found]))
        factors = torch.from_numpy(found[best][0]).float().to(right_BX.device)
        repaired, broken = evidence.changed(kinds_SJBX[best, :4], factors, right_BX)
        strength = evidence.STRENGTHS[best]
        logger.info(
            "metric: class mean %.1f, metric %.1f, tightness %.1f, nearest sample %.1f, strength %g; of %d training "
            "samples %d repaired, %d broken", *factors.tolist(), strength, len(right_BX), repaired, broken,
        )  # fmt: skip
        if repaired - broken < max(1, 2 * (repaired + broken) ** 0.5) or not factors[[0, 2, 3]].any():
            logger.info("metric: the gain is not shown, class means decide alone")
            return plain
        margin = evidence.margin(kinds_SJBX[best], factors)
        return self._made_of(local_metric.learn(scores.class_means_KD, samples, *settings), strength, margin, factors)

    def refit(self, class_means_KD: Tensor, samples: TrainingSamples) -> "Metric":
        """With metrics, tightness and samples learned again; strength and f stay, or that class means decide alone."""
        if self._local is None:
            return self
        learned = local_metric.learn(class_means_KD, samples, self.directions, self.pool, self.prior)
        return self._made_of(learned, self.strength, self.margin, self.factors_J)

    def extended(self, class_means_KD: Tensor, samples: TrainingSamples) -> "Metric":
        if self._local is None:
            return self
        local = local_metric.extended(self._local, class_means_KD, samples, self.pool)
        return self._made_of(local, self.strength, self.margin, self.factors_J)

    def _made_of(self, local: LocalMetric, strength: float, margin: float, factors_J: Tensor) -> "Metric":
        learned: Any = {name: value for name, value in vars(local).items() if isinstance(value, Tensor)}
        settings = self.candidates, self.directions, self.pool, self.prior, strength, margin, local.length, factors_J
        return Metric(*settings, **learned)
