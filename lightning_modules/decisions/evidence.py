# SPDX-License-Identifier: MIT
"""How much each kind of evidence is worth: a conditional logit over the candidates of probes whose name is known.

Axes: B probes, P routed clusters of a probe, T candidates of a cluster, X = P T candidates of a probe, C classes of a
cluster, J kinds of evidence, S strengths of the metric.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules import local_metric
from lightning_modules.decisions.inside import identities_of, outputs_of
from lightning_modules.scores import ProbeScores, routed

MOST_CANDIDATES = 1 << 18  # of all probes together

PRIOR_FACTOR = 20.0  # of the first kind before anything is known, and how far factors may lie from that by themselves


def best_weights(evidence_JBX: Tensor, right_BX: Tensor) -> tuple[np.ndarray, float]:
    """The (J,) factors f >= 0 under which the right candidates are most probable, and their mean log-probability.

    p(x | b) = softmax over the candidates of b of sum_j f_j evidence_jbx. Maximises the sum over probes of log p of the
    right candidate (of all places where it is right) minus |f - f0|^2 / (2 f00^2), with f0 = (20, 0, ...) and f00 = 20:
    a prior of the weight of a single probe. Concave if a right candidate has one place (McFadden, Frontiers in
    Econometrics 1974). The mean is -inf if no probe has a right candidate.

    Args:
        evidence_JBX: float32; -inf in the first kind if there is no candidate.
        right_BX: bool; probes without a right candidate say nothing.
    """
    known_B = right_BX.any(1)
    start = np.zeros(len(evidence_JBX))
    start[0] = PRIOR_FACTOR
    if not known_B.any():
        return start, -np.inf
    absent_BX = evidence_JBX[0].isneginf()[known_B]
    evidence_JBX = evidence_JBX[:, known_B].double().masked_fill(absent_BX, 0)
    wrong_BX = ~right_BX[known_B]

    def cost(factors: np.ndarray) -> tuple[float, np.ndarray]:
        f_J = torch.from_numpy(factors).to(evidence_JBX.device)
        z_BX = torch.einsum("j,jbx->bx", f_J, evidence_JBX).masked_fill(absent_BX, -torch.inf)
        of_all_BX, of_right_BX = z_BX.softmax(1), z_BX.masked_fill(wrong_BX, -torch.inf).softmax(1)
        log_p = z_BX.masked_fill(wrong_BX, -torch.inf).logsumexp(1) - z_BX.logsumexp(1)
        slope_J = torch.einsum("jbx,bx->j", evidence_JBX, of_all_BX - of_right_BX).cpu().numpy()
        away = (factors - start) / PRIOR_FACTOR
        return float(-log_p.sum()) + float(away @ away) / 2, slope_J + away / PRIOR_FACTOR

    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    away = (found.x - start) / PRIOR_FACTOR
    return found.x, -(found.fun - away @ away / 2) / int(known_B.sum())


@dataclass(frozen=True)
class EvidenceWeights:
    """How much the evidence is worth."""

    strength: float  # of the metric
    factors: tuple[float, float, float, float]  # of mean, row, local and pooled metric, at least 0


def choose(found: "Evidence", strengths: tuple[float, ...], rows: bool) -> EvidenceWeights | None:
    """The kinds of evidence, their factors and the strength that explain the right answers best; None without any.

    Compared are the class mean alone, with rows, with the metrics of each strength, and with both. The highest
    log-likelihood less ln(B) / 2 for each further factor above 0 and for the strength wins (Schwarz, Annals of
    Statistics 6, 1978): if hardly a probe is answered wrongly, nothing is learned from the few.
    """
    known = int(found.right_BX.any(1).sum())
    if not known:
        return None
    best: tuple[float, EvidenceWeights | None] = (-np.inf, None)
    for place, strength in enumerate(strengths):
        kinds = found.kinds(place)
        for used in ([0], [0, 1], [0, 2, 3], [0, 1, 2, 3]):
            if (1 in used and not rows) or (2 not in used and place):
                continue
            factors, probability = best_weights(kinds[used], found.right_BX)
            further = int((factors[1:] > 0).sum()) + (2 in used)
            worth = known * probability - further * np.log(known) / 2
            if worth > best[0]:
                every = np.zeros(4)
                every[used] = factors
                best = worth, EvidenceWeights(strength, (every[0], every[1], every[2], every[3]))
    return best[1]


@dataclass(frozen=True)
class Evidence:
    """How much speaks for the candidates of B probes."""

    right_BX: Tensor  # bool
    mean_BX: Tensor  # cosine with the class mean, -inf if there is no candidate
    row_BX: Tensor  # output of the head
    local_SBX: Tensor  # given back by the metric of the class, for each strength
    pooled_SBX: Tensor  # given back by the metric of all

    def kinds(self, place: int) -> Tensor:
        """(4, B, X) mean, row, local and pooled under one of the strengths."""
        return torch.stack([self.mean_BX, self.row_BX, self.local_SBX[place], self.pooled_SBX[place]])


def of_probes(
    scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, learned: local_metric.LocalCovariance,
    strengths: tuple[float, ...], candidates: int, own_BD: Tensor | None = None,
) -> Evidence:  # fmt: skip
    """Evidence for the classes of highest cosine with their mean in each routed cluster.

    Of all probes, or of so many, evenly drawn, that there are about 262,144 candidates.

    Args:
        clusters_BP: int64, -1 for none.
        truth_B: int64 identities.
        own_BD: the class mean of each probe's own identity, if it is not that of the scores.
    """
    p, device = clusters_BP.shape[1], truth_B.device
    most = max(1, MOST_CANDIDATES // (p * candidates))
    kept = torch.linspace(0, len(truth_B) - 1, min(most, len(truth_B)), dtype=torch.float64).long().to(device)
    shape = len(kept), p * candidates
    mean_BX, identity_BX = torch.full(shape, -torch.inf, device=device), torch.full(shape, -1, device=device)
    zeros = torch.zeros((2 * len(strengths) + 1, *shape), device=device)
    found = Evidence(zeros[0] > 0, mean_BX, zeros[0], *zeros[1:].chunk(2))
    for cluster, which_b, place_b in routed(clusters_BP[kept]):
        identity_C = identities_of(scores, cluster)
        columns_T = torch.arange(min(candidates, len(identity_C)), device=device)
        for block, output_bC, cosine_bC in outputs_of(scores, cluster, kept[which_b]):
            mean_bT, class_bT = cosine_bC.topk(len(columns_T), dim=1)
            place = which_b[block][:, None], place_b[block][:, None] * candidates + columns_T
            found.mean_BX[place], found.row_BX[place] = mean_bT, output_bC.gather(1, class_bT)
            identity_BX[place] = identity_C[class_bT]
    torch.eq(identity_BX, truth_B[kept][:, None], out=found.right_BX)
    projected_KR = learned.length * scores.class_means_KD @ learned.basis_DR
    probes_BD = scores.probes_BD[kept]
    offset_BXR = (probes_BD @ learned.basis_DR)[:, None] - projected_KR[identity_BX.clamp_min(0)]
    if own_BD is not None:
        own_BR = (probes_BD - learned.length * own_BD[kept]) @ learned.basis_DR
        offset_BXR = torch.where(found.right_BX[..., None], own_BR[:, None], offset_BXR)
        found.mean_BX.copy_(torch.where(found.right_BX, (probes_BD * own_BD[kept]).sum(1, keepdim=True), found.mean_BX))
    for first, covariance_kRR in learned.covariances():
        for s, strength in enumerate(strengths):
            metrics = [(first, local_metric.metric(covariance_kRR, strength))]
            found.local_SBX[s] += local_metric.given_back(offset_BXR, identity_BX, metrics)
    for s, strength in enumerate(strengths):
        metric_RR = local_metric.metric(learned.pooled_RR, strength)
        found.pooled_SBX[s] += local_metric.given_back_alike(offset_BXR, metric_RR)
    return found


def of_training_samples(
    scores: ProbeScores, samples: TrainingSamples, settings: tuple[int, int, int], strengths: tuple[float, ...],
    candidates: int,
) -> Evidence:  # fmt: skip
    """The same of training samples, each in its home cluster and against the mean of its class without it.

    Covariances that have seen a sample know its deviation: those used here are learned from every other identity, and
    the probes are samples of the identities between that have another sample. Of `scores` only class means, partition
    and heads are used; `settings` are directions, pool and prior of `local_metric.learn`.
    """
    means_KD, split, device = scores.class_means_KD, samples.split, scores.class_means_KD.device
    even_N = split.labels % 2 == 0
    halves = [TrainingSamples(samples.embeddings_ND, Split(split.rows[x], split.labels[x])) for x in (even_N, ~even_N)]
    learned = local_metric.learn(means_KD, halves[0], *settings)
    # The sum of the unit samples of a class has the direction of its mean; its length is the sum of their cosines.
    length_K = torch.zeros(len(means_KD), device=device)
    for rows, labels in halves[1].blocks():
        label_b = torch.from_numpy(labels.astype(np.int64)).to(device)
        length_K.index_add_(0, label_b, (torch.from_numpy(rows).to(device) * means_KD[label_b]).sum(1))
    drawn, labels = halves[1].drawn(MOST_CANDIDATES // candidates, seed=0)
    kept = np.bincount(split.labels, minlength=len(means_KD))[labels] > 1
    probes_BD = torch.from_numpy(drawn[kept]).to(device)
    truth_B = torch.from_numpy(labels[kept].astype(np.int64)).to(device)
    own_BD = F.normalize(length_K[truth_B][:, None] * means_KD[truth_B] - probes_BD)
    probes = ProbeScores(probes_BD, means_KD, scores.partition, scores.heads)
    clusters_B1 = scores.cluster_of_K[truth_B][:, None]
    return of_probes(probes, clusters_B1, truth_B, learned, strengths, candidates, own_BD)
