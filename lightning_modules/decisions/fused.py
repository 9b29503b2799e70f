# SPDX-License-Identifier: MIT
"""Ours: trained rows and class means in one centre, distances in units of how the people of a cluster vary.

Axes: B probes, P routed clusters of a probe, T candidates, C classes of a cluster, S classes of all clusters,
M clusters, D embedding dimension, R directions.
"""

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import local_split
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import local_metric
from lightning_modules.decisions.base import Decided, Decision
from lightning_modules.decisions.inside import identities_of, routed
from lightning_modules.scores import ProbeScores

logger = logging.getLogger(__name__)

WEIGHTS = torch.linspace(0, 1, 11)
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
TEMPERATURES = torch.logspace(0, 2.5, 26)  # factors of scores under the softmax
FIT_PROBES = 2048
LEARN_ROWS = 1 << 19  # samples of a cluster that covariances are learned from; 1 GiB at D = 512


class Fused(Decision):
    """The class of least distance to the probe, among the candidates of the routed clusters.

    The centre of a class is c = weight mean + (1 - weight) row, both of unit length, normalised again: the class mean
    needs few samples, the trained row knows the other classes. Its distance to a probe x is that of
    `local_metric.LocalCovariance`: |x - t c|^2 + d' M d with d the part of x - t c in the cluster's R directions and
    M between -1 (a deviation that is usual among the people around this class counts nothing) and 0 (plain
    distance). The score is t cos(x, c) - d' M d / 2, which orders as the distance does; weight = 1 and strength = 0
    are the nearest class mean, weight = strength = 0 is `Argmax` over cosines.

    Found by `fit`: covariances from the training samples, weight and strength (6 x 11 values) where the mean
    log-probability of validation probes is highest, under the best temperature for each. It rewards clear answers as
    well as right ones, so that it can tell settings apart where hardly a probe is answered wrongly. Nothing else
    depends on the data. Without a validation probe whose identity is a candidate, weight and strength are the
    defaults of an unfitted decision. Unfitted, and where no identity has two samples, there is no metric.

    Memory: D + R + R^2 / 2 floats per class. Time: the cosines of the routed clusters, and R^2 products per candidate.

    Args:
        candidates: T, classes of highest cosine with their centre in each routed cluster whose distance is measured.
        directions: R at most.
        pool: degrees of freedom of the neighbourhood of a class, see `local_metric.learn`.
        prior: degrees of freedom for which the cluster's covariance counts beside it.
        weight: of the class mean in the centre, in [0, 1]; None lets `fit` choose.
        strength: of the metric, see `LocalCovariance.metric`; None lets `fit` choose.
        length: t; set by `fit`.
        centre_SD, basis_MDR, projected_SR, metric_SRR: set by `fit`; centres, directions, centres in them, and M.
    """

    needs_fit = True

    def __init__(
        self,
        candidates: int = 10,
        directions: int = 96,
        pool: int = 300,
        prior: int = 200,
        weight: float | None = None,
        strength: float | None = None,
        length: float = 1.0,
        centre_SD: Tensor | None = None,
        basis_MDR: Tensor | None = None,
        projected_SR: Tensor | None = None,
        metric_SRR: Tensor | None = None,
    ):
        if candidates < 1 or directions < 0 or pool < 1 or prior < 0:
            raise ValueError(
                f"got candidates {candidates}, directions {directions}, pool {pool}, prior {prior}; expected at least "
                "1, 0, 1, 0"
            )
        if not (weight is None or 0 <= weight <= 1) or not (strength is None or strength >= 0):
            raise ValueError(f"got weight {weight}, strength {strength}; expected a weight in [0, 1], strength >= 0")
        self.candidates, self.directions, self.pool, self.prior = candidates, directions, pool, prior
        self.weight, self.strength, self.length = weight, strength, length
        self.centre_SD, self.basis_MDR, self.projected_SR = centre_SD, basis_MDR, projected_SR
        self.metric_SRR = metric_SRR

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Looks into the routed clusters only; see `Decision.decide`. The score is like a cosine, at most about 1."""
        b, p = clusters_BP.shape
        score_BP = torch.full((b, p), -torch.inf, device=clusters_BP.device)
        identity_BP = torch.full((b, p), -1, device=clusters_BP.device)
        for cluster, which_b, place_b in routed(clusters_BP):
            classes, identity_C = _span(scores, cluster), identities_of(scores, cluster)
            centre_CD = self._centres(scores, cluster) if self.centre_SD is None else self.centre_SD[classes]
            for block in torch.arange(len(which_b)).split(max(1, local_metric.BLOCK_ELEMENTS // len(centre_CD))):
                probes_bD = scores.probes_BD[which_b[block]]
                cosine_bT, class_bT = (probes_bD @ centre_CD.T).topk(min(self.candidates, len(centre_CD)), dim=1)
                found_bT = self._score(probes_bD, cosine_bT, class_bT, cluster, classes)
                # Of equal scores the lower identity: candidates of equal cosine come in any order.
                best_b = found_bT.amax(1)
                tied_bT = class_bT.masked_fill(found_bT < best_b[:, None], len(centre_CD))
                score_BP[which_b[block], place_b[block]] = best_b
                identity_BP[which_b[block], place_b[block]] = identity_C[tied_bT.amin(1)]
        score_B1, place_B1 = score_BP.max(1, keepdim=True)
        return Decided(
            identity_BP.gather(1, place_B1).squeeze(1), score_B1.squeeze(1), clusters_BP.gather(1, place_B1).squeeze(1)
        )

    def _score(self, probes_bD: Tensor, cosine_bT: Tensor, class_bT: Tensor, cluster: int, classes: slice) -> Tensor:
        if self.metric_SRR is None or self.metric_SRR.shape[1] == 0:
            return self.length * cosine_bT
        offset_bTR = (probes_bD @ self.basis_MDR[cluster])[:, None] - self.length * self.projected_SR[classes][class_bT]
        saved_N = _quadratic(offset_bTR.flatten(0, 1)[:, None], self.metric_SRR, class_bT.flatten() + classes.start)
        return self.length * cosine_bT - saved_N.view(class_bT.shape) / 2

    def _centres(self, scores: ProbeScores, cluster: int, weight: float | None = None) -> Tensor:
        weight = weight if weight is not None else 0.5 if self.weight is None else self.weight
        return F.normalize(torch.lerp(_rows(scores, cluster), _means(scores, cluster), weight))

    def fit(self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, samples: TrainingSamples) -> "Fused":
        """Learns covariances cluster by cluster, then chooses weight and strength; see `Decision.fit`."""
        clusters = range(scores.partition.n_clusters)
        learned = [self._learn(scores, cluster, samples) for cluster in clusters]
        total = sum(len(one.covariance_CRR) for one in learned)
        length = sum(one.length * len(one.covariance_CRR) for one in learned) / total
        learned = [local_metric.LocalCovariance(one.basis_DR, one.covariance_CRR, length) for one in learned]
        weight, strength = self._choose(scores, clusters_BP, truth_B, learned, length)
        logger.info("fused: weight of the class means %.2f, strength of the metric %.2f", weight, strength)

        r = max(one.basis_DR.shape[1] for one in learned)
        wider = [r - one.basis_DR.shape[1] for one in learned]  # zeros change nothing
        centres = [self._centres(scores, cluster, weight) for cluster in clusters]
        return Fused(
            self.candidates, self.directions, self.pool, self.prior, weight, strength, length,
            centre_SD=torch.cat(centres),
            basis_MDR=torch.stack([F.pad(one.basis_DR, (0, w)) for one, w in zip(learned, wider, strict=True)]),
            projected_SR=torch.cat([
                F.pad(centre @ one.basis_DR, (0, w)) for centre, one, w in zip(centres, learned, wider, strict=True)
            ]),
            metric_SRR=torch.cat([
                F.pad(one.metric(strength), (0, w, 0, w)).half() for one, w in zip(learned, wider, strict=True)
            ]),
        )  # fmt: skip

    def _learn(self, scores: ProbeScores, cluster: int, samples: TrainingSamples) -> local_metric.LocalCovariance:
        split, means_CD = local_split(samples.split, scores.partition.members(cluster)), _means(scores, cluster)
        rows, labels = split.rows, split.labels
        if len(rows) > LEARN_ROWS:
            counts = np.bincount(labels)
            rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
            kept = rank < max(2, LEARN_ROWS // len(counts))
            rows, labels = rows[kept], labels[kept]
        device = means_CD.device
        samples_ND = torch.from_numpy(normalise_rows(samples.embeddings_ND[rows])).to(device)
        label_N = torch.from_numpy(labels.astype(np.int64)).to(device)
        return local_metric.learn(samples_ND, label_N, means_CD, self.directions, self.pool, self.prior)

    def _choose(
        self, scores: ProbeScores, clusters_BP: Tensor, truth_B: Tensor, learned: list, length: float
    ) -> tuple[float, float]:
        weights = WEIGHTS if self.weight is None else torch.tensor([self.weight])
        strengths = STRENGTHS if self.strength is None else (self.strength,)
        kept = torch.linspace(0, len(truth_B) - 1, min(FIT_PROBES, len(truth_B))).long()
        found = [_Candidates.of(self, scores, kept, clusters_BP[kept], learned[c], c) for c in range(len(learned))]
        best = (-torch.inf, 1.0 if self.weight is None else self.weight, 1.0 if self.strength is None else self.strength)
        b, p = len(kept), clusters_BP.shape[1]
        for strength in strengths:
            products = [one.products(strength) for one in found]
            for weight in weights.tolist():
                score_BX = torch.full((b, p * self.candidates), -torch.inf, device=truth_B.device)
                right_BX = torch.zeros_like(score_BX, dtype=torch.bool)
                for one, product in zip(found, products, strict=True):
                    score_bT = one.score(product, weight, length)
                    column_bT = one.place_b[:, None] * self.candidates + torch.arange(score_bT.shape[1], device=b_device(one))
                    score_BX[one.probe_b[:, None], column_bT] = score_bT
                    right_BX[one.probe_b[:, None], column_bT] = one.identity_bT == truth_B[kept][one.probe_b][:, None]
                probability = _log_probability(score_BX, right_BX)
                if probability > best[0]:
                    best = probability, weight, strength
        return best[1], best[2]


def b_device(one: "_Candidates") -> torch.device:
    return one.probe_b.device


class _Candidates(NamedTuple):
    """Candidates of the probes that look into one cluster, and what their scores are made of."""

    probe_b: Tensor
    place_b: Tensor
    identity_bT: Tensor
    class_bT: Tensor
    output_bT: Tensor
    mean_cosine_bT: Tensor
    agreement_bT: Tensor
    parts_bT3R: Tensor
    learned: local_metric.LocalCovariance

    @classmethod
    def of(cls, decision: Fused, scores: ProbeScores, kept: Tensor, clusters_BP: Tensor, learned, cluster: int):
        probe_b, place_b = (clusters_BP == cluster).nonzero(as_tuple=True)
        rows_CD, means_CD = _rows(scores, cluster), _means(scores, cluster)
        probes_bD = scores.probes_BD[kept[probe_b]]
        class_bT = (probes_bD @ means_CD.T).topk(min(decision.candidates, len(means_CD)), dim=1).indices
        projected = [x @ learned.basis_DR for x in (probes_bD, rows_CD, means_CD)]
        parts = [projected[0][:, None].expand(-1, class_bT.shape[1], -1), projected[1][class_bT], projected[2][class_bT]]
        return cls(
            probe_b, place_b, identities_of(scores, cluster)[class_bT], class_bT,
            torch.einsum("bd,btd->bt", probes_bD, rows_CD[class_bT]),
            torch.einsum("bd,btd->bt", probes_bD, means_CD[class_bT]),
            (rows_CD * means_CD).sum(1)[class_bT],
            torch.stack(parts, 2), learned,
        )  # fmt: skip

    def products(self, strength: float) -> Tensor:
        """u' M v of the projections u, v of probe, row and class mean: (b, T, 3, 3)."""
        if strength == 0 or self.parts_bT3R.shape[-1] == 0:
            return self.parts_bT3R.new_zeros(*self.class_bT.shape, 3, 3)
        metric_CRR = self.learned.metric(strength)
        parts_N3R = self.parts_bT3R.flatten(0, 1)
        return _quadratic(parts_N3R, metric_CRR, self.class_bT.flatten()).view(*self.class_bT.shape, 3, 3)

    def score(self, product_bT33: Tensor, weight: float, t: float) -> Tensor:
        """The decision's score for a weight, from products: (b, T)."""
        size_bT = (weight**2 + (1 - weight) ** 2 + 2 * weight * (1 - weight) * self.agreement_bT).clamp_min(1e-12).sqrt()
        of_row_bT, of_mean_bT = (1 - weight) / size_bT, weight / size_bT
        mix_bT3 = torch.stack([torch.ones_like(size_bT), -t * of_row_bT, -t * of_mean_bT], 2)
        saved_bT = torch.einsum("bti,btij,btj->bt", mix_bT3, product_bT33, mix_bT3)
        return t * (of_row_bT * self.output_bT + of_mean_bT * self.mean_cosine_bT) - saved_bT / 2


def _quadratic(vectors_NVR: Tensor, metric_SRR: Tensor, class_N: Tensor) -> Tensor:
    # (N, V, V) products under the metric of each; (N, 1, 1) where V = 1. Gathered metrics are large, so in steps.
    step = max(1, local_metric.BLOCK_ELEMENTS // metric_SRR[0].numel())
    parts = [
        v @ metric_SRR[c].to(v.dtype) @ v.transpose(1, 2)
        for v, c in zip(vectors_NVR.split(step), class_N.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else vectors_NVR.new_zeros(0, vectors_NVR.shape[1], vectors_NVR.shape[1])


def _log_probability(score_BX: Tensor, right_BX: Tensor) -> float:
    # Highest over temperatures; probes whose identity is no candidate say nothing about weight and strength.
    known_B = right_BX.any(1)
    if not known_B.any():
        return -torch.inf
    score_BX, right_BX = score_BX[known_B], right_BX[known_B]
    return max(
        float((z_BX.masked_fill(~right_BX, -torch.inf).logsumexp(1) - z_BX.logsumexp(1)).mean())
        for z_BX in (factor * score_BX for factor in TEMPERATURES.tolist())
    )


def _span(scores: ProbeScores, cluster: int) -> slice:
    r = scores.heads.rows_per_class
    return slice(scores.heads.starts[cluster] // r, scores.heads.starts[cluster + 1] // r)


def _means(scores: ProbeScores, cluster: int) -> Tensor:
    return scores.class_means_KD[identities_of(scores, cluster)]


def _rows(scores: ProbeScores, cluster: int) -> Tensor:
    # Of several rows per class, their mean direction.
    heads = scores.heads
    rows = F.normalize(heads.rows_SD[heads.starts[cluster] : heads.starts[cluster + 1]])
    return F.normalize(rows.unflatten(0, (-1, heads.rows_per_class)).mean(1))
