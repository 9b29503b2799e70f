# SPDX-License-Identifier: MIT
"""How the samples of an identity vary, learned from its own and from those of the identities around it.

Axes: N samples, K identities, J identities with two or more samples, D embedding dimension, R directions.

The covariance of an identity is pooled over those around it and shrunk to that of all; distances are measured in units
of it. With one covariance for all this is within-class covariance normalisation (Hatch, Kajarekar & Stolcke,
Interspeech 2006), with one per class regularised discriminant analysis (Friedman, JASA 84, 1989).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.class_means import normalise_rows
from datamodules.partitioners.samples import TrainingSamples

BLOCK_ELEMENTS = 1 << 22  # of intermediate results: 16 MiB of float32
LEARN_ROWS = 1 << 20  # samples that covariances are learned from; 2 GiB at D = 512


@dataclass(frozen=True)
class LocalCovariance:
    """Covariance of the samples around their class mean, in the directions of largest variance."""

    basis_DR: Tensor  # orthonormal directions of largest within-class variance
    # Covariance over all identities in these directions, divided by its effective eigenvalue tr(W^2) / tr(W), so that
    # strengths mean the same for every covariance, data set and R.
    pooled_RR: Tensor
    # t in (0, 1], length of the mean of infinitely many unit samples of a class: the square root of the mean cosine
    # between two samples of one class. Estimated means come out longer, that of one sample with length 1.
    length: float
    centred_NR: Tensor  # samples less their class mean, in the directions
    start_K: Tensor  # (K + 1,) int64 places where the samples of an identity begin
    near_Kj: Tensor  # int32 neighbours of each identity, most similar first; -1 fills up
    prior: int  # degrees of freedom that the pooled covariance counts for

    def covariances(self) -> Iterator[tuple[int, Tensor]]:
        """Some identities at a time: the first, and the (k, R, R) covariances, scaled as `pooled_RR` is.

        The covariance of an identity is (sum of scatters + prior G) / (degrees of freedom + prior), the mean of its
        posterior under an inverse Wishart prior around the pooled covariance G, with the scatters of its neighbours.
        """
        r, n_K = self.basis_DR.shape[1], self.start_K.diff()
        freedom_K = (n_K - 1).clamp_min(0)
        whole_RR = self.centred_NR.T @ self.centred_NR / freedom_K.sum().clamp_min(1)
        step = max(1, BLOCK_ELEMENTS // max(1, r * r))
        for first in range(0, len(self.near_Kj), step):
            made = []
            for near_j in self.near_Kj[first : first + step]:
                near_j = near_j[near_j >= 0].long()
                count_j, end_j = n_K[near_j], n_K[near_j].cumsum(0)
                index_n = torch.arange(int(end_j[-1]) if len(end_j) else 0, device=near_j.device)
                rows_nR = self.centred_NR[index_n + (self.start_K[near_j] - end_j + count_j).repeat_interleave(count_j)]
                made.append((rows_nR.T @ rows_nR + self.prior * whole_RR) / (freedom_K[near_j].sum() + self.prior))
            yield first, _scaled(torch.stack(made))


def metric(covariance_kRR: Tensor, strength: float) -> Tensor:
    """(I + strength W)^-1 - I, the share of the squared distance that a scaled covariance W takes: between -I and 0.

    Of (k, R, R) or (R, R). Strength 0 is the plain distance; 1 halves the squared distance in a direction of effective
    variance.
    """
    identity = torch.eye(covariance_kRR.shape[-1], device=covariance_kRR.device)
    return torch.linalg.inv(identity + strength * covariance_kRR) - identity


def given_back(offset_bTR: Tensor, identity_bT: Tensor, metrics: Iterable[tuple[int, Tensor]]) -> Tensor:
    """-o' M o / 2, half of what the metric takes from the squared distance: (b, T), at least 0.

    `metrics` are the first identity and the (k, R, R) metrics of it and those that follow, of any floating dtype;
    identities without a metric get 0.
    """
    offset_NR, identity_N = offset_bTR.flatten(0, 1), identity_bT.flatten()
    sorted_N, order_N = identity_N.sort(stable=True)
    found_N = offset_NR.new_zeros(len(offset_NR))
    for first, metric_kRR in metrics if offset_NR.shape[1] else ():
        low, high = torch.searchsorted(sorted_N, torch.tensor([first, first + len(metric_kRR)]).to(sorted_N)).tolist()
        present, counts = torch.unique_consecutive(sorted_N[low:high], return_counts=True)
        # One by one: a gather of a metric per candidate would move R^2 numbers for each.
        parts = torch.split(order_N[low:high], counts.tolist())
        for identity, which in zip(present.tolist(), parts, strict=True):
            offset_nR = offset_NR[which]
            product_nR = offset_nR @ metric_kRR[identity - first].to(offset_nR.dtype)
            found_N[which] = -(product_nR * offset_nR).sum(1) / 2
    return found_N.view(identity_bT.shape)


def given_back_alike(offset_bTR: Tensor, metric_RR: Tensor) -> Tensor:
    """The same under one metric for all: (b, T)."""
    return -((offset_bTR @ metric_RR) * offset_bTR).sum(2) / 2


def learn(class_means_KD: Tensor, samples: TrainingSamples, directions: int, pool: int, prior: int) -> LocalCovariance:
    """Learns from training samples, of at most 1,048,576 of them evenly over the identities.

    The neighbours of an identity are those with two or more samples whose class means are most similar to its own,
    itself among them, until they have `pool` degrees of freedom (samples beyond the first of each) together. With R = 0
    and length 1 if no identity has two samples.

    Args:
        class_means_KD: float32, of unit length.
        directions: R at most; there are fewer if there are fewer degrees of freedom.
        pool, prior: degrees of freedom, of a neighbourhood at least 1, of the pooled covariance at least 0.
    """
    device, (k, dim) = class_means_KD.device, class_means_KD.shape
    rows, labels = samples.split.rows, samples.split.labels
    if len(rows) > LEARN_ROWS:
        counts = np.bincount(labels, minlength=k)
        rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
        kept = rank < max(2, LEARN_ROWS // k)
        rows, labels = rows[kept], labels[kept]
    sample_ND = torch.from_numpy(normalise_rows(samples.embeddings_ND[rows])).to(device)
    label_N = torch.from_numpy(labels.astype(np.int64)).to(device)
    count_K = torch.bincount(label_N, minlength=k)
    total_KD = torch.zeros_like(class_means_KD).index_add_(0, label_N, sample_ND)
    # |sum|^2 - n is the sum of the cosines of all n (n - 1) pairs.
    pairs, cosines = (count_K * (count_K - 1)).sum(), (total_KD.square().sum(1) - count_K).sum()
    length = float((cosines / pairs).clamp(0.01, 1).sqrt()) if pairs else 1.0

    sample_ND -= (total_KD / count_K.clamp_min(1)[:, None])[label_N]
    freedom_K = (count_K - 1).clamp_min(0)
    r = min(directions, dim, int(freedom_K.sum()))
    basis_DR = torch.linalg.eigh(sample_ND.T @ sample_ND)[1][:, dim - r :]
    centred_NR = sample_ND @ basis_DR
    pooled_RR = _scaled(centred_NR.T @ centred_NR / freedom_K.sum().clamp_min(1))
    start_K = torch.cat([count_K.new_zeros(1), count_K.cumsum(0)])
    near_Kj = _neighbours(class_means_KD, freedom_K, pool) if r else count_K.new_full((k, 0), -1).int()
    return LocalCovariance(basis_DR, pooled_RR, length, centred_NR, start_K, near_Kj, prior)


def _neighbours(class_means_KD: Tensor, freedom_K: Tensor, pool: int) -> Tensor:
    donors_J = freedom_K.nonzero().squeeze(1)
    freedom_J, means_JD = freedom_K[donors_J], class_means_KD[donors_J]
    most = min(int((freedom_J.sort()[0].cumsum(0) < pool).sum()) + 1, len(donors_J))
    parts = []
    for means_kD in class_means_KD.split(max(1, BLOCK_ELEMENTS // len(donors_J))):
        near_kj = (means_kD @ means_JD.T).topk(most, dim=1).indices
        freedom_kj = freedom_J[near_kj]
        taken_kj = freedom_kj.cumsum(1) - freedom_kj < pool
        parts.append(donors_J[near_kj].masked_fill(~taken_kj, -1).int())
    return torch.cat(parts)


def _scaled(covariance_kRR: Tensor) -> Tensor:
    trace_k = covariance_kRR.diagonal(dim1=-2, dim2=-1).sum(-1)
    effective_k = covariance_kRR.square().sum((-2, -1)) / trace_k.clamp_min(1e-12)
    return covariance_kRR / effective_k.clamp_min(1e-12)[..., None, None]
