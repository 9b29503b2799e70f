# SPDX-License-Identifier: MIT
"""What speaks for a candidate, and how much each kind of evidence is worth: a conditional logit over candidates.

Axes: B probes, X candidates of a probe, J = 4 kinds of evidence, S strengths of the metric, K identities, D dimension.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import local_metric
from lightning_modules.local_metric import LocalMetric
from lightning_modules.scores import ProbeScores

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
MOST_PROBES = 20_000  # training samples that weights are learned from
PROBES_AT_ONCE = 1024
TIGHTNESS_PRIOR = 4  # samples that the tightness of all identities counts for
PRIOR_FACTOR = 20.0  # of the first kind before anything is known, and how far factors may lie from that by themselves


def best_weights(evidence_JBX: Tensor, right_BX: Tensor) -> tuple[np.ndarray, float]:
    """The (J,) factors f >= 0 under which the right candidates are most probable, and their mean log-probability.

    p(x | b) = softmax over the candidates of b of sum_j f_j evidence_jbx. Maximises the sum over probes of log p of the
    right candidate (of all places where it is right) minus |f - f0|^2 / (2 f00^2), with f0 = (20, 0, ...) and f00 = 20:
    a prior of the weight of a single probe. Concave if a right candidate has one place (McFadden, Frontiers in
    Econometrics 1974). The mean is -inf if no probe has a right candidate.

    Args:
        evidence_JBX: float32.
        right_BX: bool; probes without a right candidate say nothing.
    """
    known_B = right_BX.any(1)
    start = np.zeros(len(evidence_JBX))
    start[0] = PRIOR_FACTOR
    if not known_B.any():
        return start, -np.inf
    evidence_JBX = evidence_JBX[:, known_B].double()
    wrong_BX = ~right_BX[known_B]

    def cost(factors: np.ndarray) -> tuple[float, np.ndarray]:
        f_J = torch.from_numpy(factors).to(evidence_JBX.device)
        z_BX = torch.einsum("j,jbx->bx", f_J, evidence_JBX)
        of_all_BX, of_right_BX = z_BX.softmax(1), z_BX.masked_fill(wrong_BX, -torch.inf).softmax(1)
        log_p = z_BX.masked_fill(wrong_BX, -torch.inf).logsumexp(1) - z_BX.logsumexp(1)
        slope_J = torch.einsum("jbx,bx->j", evidence_JBX, of_all_BX - of_right_BX).cpu().numpy()
        away = (factors - start) / PRIOR_FACTOR
        return float(-log_p.sum()) + float(away @ away) / 2, slope_J + away / PRIOR_FACTOR

    found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    away = (found.x - start) / PRIOR_FACTOR
    return found.x, -(found.fun - away @ away / 2) / int(known_B.sum())


def changed(kinds_JBX: Tensor, factors_J: Tensor, right_BX: Tensor) -> tuple[int, int]:
    """How many answers of the class means alone the (J, B, X) evidence repairs, and how many it breaks."""
    answers = kinds_JBX[0].argmax(1), torch.einsum("j,jbx->bx", factors_J, kinds_JBX).argmax(1)
    before_B, after_B = (right_BX.gather(1, answer_B[:, None]).squeeze(1) for answer_B in answers)
    return int((after_B & ~before_B).sum()), int((before_B & ~after_B).sum())


def margin(kinds_5BX: Tensor, factors_J: Tensor) -> float:
    """By how much a candidate's own covariance brings it closer to the best by the covariance of all, at most.

    Args:
        kinds_5BX: evidence of `of_training_samples`.
    """
    own_BX, of_all_BX = kinds_5BX[1], kinds_5BX[4]
    best_B1 = torch.einsum("j,jbx->bx", factors_J, kinds_5BX[[0, 4, 2, 3]]).argmax(1, keepdim=True)
    gain_BX = (own_BX - of_all_BX) * factors_J[1] / (factors_J.sum() - factors_J[1])
    return float((gain_BX - gain_BX.gather(1, best_B1)).max())


def kinds(
    local: LocalMetric, unit_BD: Tensor, cosine_BX: Tensor, identity_BX: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """The (4, B, X) evidence for candidates: mean, metric, tightness, nearest sample; see `decisions.metric`.

    The metric is that of the covariance of all, which costs little. Returns also the (B, X, R) offsets that
    `LocalMetric.given_back` takes.

    Args:
        unit_BD: probes of unit length.
        cosine_BX: with the class means of the candidates.
        identity_BX: int64.
    """
    along_BR, (b, x) = unit_BD @ local.basis_DR, identity_BX.shape
    offset_BXR = along_BR[:, None] - local.projected_KR[identity_BX]
    given_BX = local.given_back(offset_BXR.flatten(0, 1), None, (strength,)).view(b, x)
    along_NR, none_N = along_BR.repeat_interleave(x, 0), torch.full((b * x,), -1, device=unit_BD.device)
    nearest_BX = local.with_samples(cosine_BX.flatten(), along_NR, identity_BX.flatten(), none_N).view(b, x)
    tight_BX = tightness(local, local.count_K[identity_BX], local.mean_length_K[identity_BX])
    return torch.stack([cosine_BX, given_BX, (cosine_BX - 1) * tight_BX, nearest_BX]), offset_BXR


def tightness(local: LocalMetric, count_N: Tensor, mean_length_N: Tensor) -> Tensor:
    """(N,) mean cosine of two samples of a class over that of all classes, shrunk to 1 as by four samples.

    ((|sum|^2 - n) / n + 4 t^2) / (n - 1 + 4) / t^2, for n = 1 sample 1; |sum| is n times the mean length.
    """
    t2 = local.length**2
    tight_N = (count_N * mean_length_N.square() - 1 + TIGHTNESS_PRIOR * t2) / (count_N - 1 + TIGHTNESS_PRIOR) / t2
    return torch.where(count_N > 1, tight_N, 1.0)


def of_training_samples(scores: ProbeScores, samples: TrainingSamples, fold: int, settings: tuple[int, int, int],
    strengths: tuple[float, ...], candidates: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The (S, 5, B, X) evidence of training samples for their nearest classes, and where the right one is, (B, X).

    The fifth is the metric again, of the covariance of all. Every class is taken without one of its samples: the right
    one without the probe, the others, if they have two, without another one. Else the class with a sample less would be
    told by that. A covariance that has seen a sample knows its deviation: so directions and covariances are learned
    from the identities k with k % 2 == fold, and the probes are samples of the others that have another sample, at most
    10,000, evenly drawn. `settings` are directions, pool and prior of `local_metric.learn`.
    """
    means_KD, device = scores.class_means_KD, scores.class_means_KD.device
    identity_K = torch.arange(len(means_KD), device=device)
    rows, labels = local_metric.kept(samples, len(means_KD))
    kept_K = torch.from_numpy(np.bincount(labels, minlength=len(means_KD))).to(device)
    label_N = identity_K.repeat_interleave(kept_K)
    place_B = ((label_N % 2 != fold) & (kept_K[label_N] > 1)).nonzero().squeeze(1)
    drawn = torch.linspace(0, len(place_B) - 1, min(len(place_B), MOST_PROBES // 2), dtype=torch.float64).long()
    place_B = place_B[drawn.to(device)]
    found = ProbeScores(
        _unit(samples, rows[place_B.cpu().numpy()], device), means_KD, scores.partition, None, search=scores.search
    )
    cosine_BX, identity_BX = found.nearest_classes(candidates + 1)
    right_BX = identity_BX == label_N[place_B][:, None]
    local = local_metric.learn(
        means_KD, samples, *settings, donor_K=identity_K % 2 == fold, asked_I=identity_BX.unique()
    )
    start_BX, kept_BX = local.start_K[identity_BX], kept_K[identity_BX]
    left_out_BX = torch.where(right_BX, place_B[:, None], start_BX + place_B[:, None] % kept_BX.clamp_min(1))
    left_out_BX = left_out_BX.masked_fill(kept_BX < 2, -1)

    parts = []
    for which_b in torch.arange(len(place_B), device=device).split(PROBES_AT_ONCE):
        left_out_bX = left_out_BX[which_b]
        left_ND = _unit(samples, rows[left_out_bX.clamp_min(0).flatten().cpu().numpy()], device)
        of_block = found.probes_BD[which_b], cosine_BX[which_b], identity_BX[which_b], left_out_bX
        parts.append(_without_one(local, means_KD, left_ND.view(*left_out_bX.shape, means_KD.shape[1]), *of_block))
    cosine_BX, tight_BX, nearest_BX, offset_BXR = (torch.cat(part) for part in zip(*parts, strict=True))
    # The right class is a candidate only if it is without the probe.
    cosine_BX, order_BX = cosine_BX.topk(min(candidates, cosine_BX.shape[1]), dim=1)
    tight_BX, nearest_BX, identity_BX, right_BX = (
        table_BX.gather(1, order_BX) for table_BX in (tight_BX, nearest_BX, identity_BX, right_BX)
    )
    offset_BXR = offset_BXR.gather(1, order_BX[..., None].expand(-1, -1, offset_BXR.shape[2]))
    own_SBX, of_all_SBX = (
        local.given_back(offset_BXR.flatten(0, 1), which_N, strengths).unflatten(1, identity_BX.shape)
        for which_N in (identity_BX.flatten(), None)
    )
    kinds_JSBX = cosine_BX.expand_as(own_SBX), own_SBX, tight_BX.expand_as(own_SBX), nearest_BX.expand_as(own_SBX)
    return torch.stack([*kinds_JSBX, of_all_SBX], 1), right_BX


def _without_one(
    local: LocalMetric, means_KD: Tensor, left_BXD: Tensor, unit_BD: Tensor, cosine_BX: Tensor, identity_BX: Tensor,
    left_out_BX: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    # Mean, tightness and nearest sample (B, X), offsets (B, X, R), of classes without the samples `left_BXD`, which lie
    # at the places `left_out_BX`; -1 for none.
    is_left_BX = left_out_BX >= 0
    count_BX = local.count_K[identity_BX] - is_left_BX.long()
    sum_BXD = (local.count_K * local.mean_length_K)[identity_BX][..., None] * means_KD[identity_BX]
    sum_BXD -= left_BXD * is_left_BX[..., None]
    length_BX, rest_BXD = sum_BXD.norm(dim=2) / count_BX, F.normalize(sum_BXD, dim=2)
    rest_cosine_BX = (rest_BXD @ unit_BD[..., None]).squeeze(2)
    along_BR = unit_BD @ local.basis_DR
    offset_BXR = along_BR[:, None] - local.length * rest_BXD @ local.basis_DR
    flat = along_BR.repeat_interleave(identity_BX.shape[1], 0), identity_BX.flatten(), left_out_BX.flatten()
    nearest_BX = local.with_samples(cosine_BX.flatten(), *flat).view_as(cosine_BX)
    # Beside the directions a sample is its class mean, which must not have seen the one left out there either.
    beside_BD1 = (unit_BD - along_BR @ local.basis_DR.T)[..., None]
    seen_BX = local.mean_length_K[identity_BX] * (means_KD[identity_BX] @ beside_BD1).squeeze(2)
    nearest_BX += length_BX * (rest_BXD @ beside_BD1).squeeze(2) - seen_BX
    return rest_cosine_BX, (rest_cosine_BX - 1) * tightness(local, count_BX, length_BX), nearest_BX, offset_BXR


def _unit(samples: TrainingSamples, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(normalise_rows(samples.embeddings_ND[rows])).to(device)
