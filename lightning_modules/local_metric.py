# SPDX-License-Identifier: MIT
"""How the samples of an identity vary, learned from its own and from those of its neighbours in the cluster.

Axes: N samples, C classes of one cluster, D embedding dimension, R directions, J classes with two or more samples.

Cosine treats all directions alike. Samples of one person differ more in some directions (pose, age, pen), and people
who resemble each other vary alike, so the covariance of a class is pooled over the classes around it and shrunk to
that of the cluster; distances are then measured in units of it. With one covariance for all classes this is
within-class covariance normalisation (Hatch, Kajarekar & Stolcke, Interspeech 2006), with one per class regularised
discriminant analysis (Friedman, JASA 84, 1989), here with the neighbourhood in the place of the class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 24  # of intermediate results: 64 MiB of float32


@dataclass(frozen=True)
class LocalCovariance:
    """Covariance of the samples around their class mean, for each class of one cluster.

    Attributes:
        basis_DR: orthonormal directions of largest within-class variance in the cluster.
        covariance_CRR: of each class in these directions, divided by its effective eigenvalue tr(W^2) / tr(W), so that
            strengths mean the same for every class, data set and R.
        length: t in (0, 1], length of the mean of infinitely many unit samples of a class: the square root of the mean
            cosine between two samples of one class. Estimated means come out longer, that of one sample with length 1.
    """

    basis_DR: Tensor
    covariance_CRR: Tensor
    length: float

    def metric(self, strength: float) -> Tensor:
        """(I + strength W)^-1 - I, what the covariance takes from the squared distance: (C, R, R), between -I and 0.

        Args:
            strength: 0 for the plain distance; 1 halves the squared distance in a direction of effective variance.
        """
        identity = torch.eye(self.covariance_CRR.shape[1], device=self.covariance_CRR.device)
        step = max(1, BLOCK_ELEMENTS // max(1, identity.numel()))
        parts = [torch.linalg.inv(identity + strength * part) - identity for part in self.covariance_CRR.split(step)]
        return torch.cat(parts)


def learn(
    samples_ND: Tensor, label_N: Tensor, class_means_CD: Tensor, directions: int, pool: int, prior: int
) -> LocalCovariance:
    """Covariances of the classes of one cluster.

    The covariance of class c is (sum of scatters + prior G) / (degrees of freedom + prior), the mean of its posterior
    under an inverse Wishart prior around the cluster's pooled covariance G. The scatters are those of the classes
    whose means are most similar to that of c, itself among them, until they have `pool` degrees of freedom (samples
    beyond the first of each class) together.

    Args:
        samples_ND: (N, D) float32 unit training samples of the cluster.
        label_N: (N,) int64 class of each, in [0, C), non-decreasing.
        class_means_CD: (C, D) float32 unit class means.
        directions: R at most; there are fewer where the cluster has fewer degrees of freedom.
        pool: degrees of freedom of a neighbourhood, at least 1.
        prior: degrees of freedom that the cluster's covariance counts for, at least 0.

    Returns:
        With R = 0 and length 1 where no class has two samples.
    """
    classes, dim = class_means_CD.shape
    count_C = torch.bincount(label_N, minlength=classes)
    mean_CD = torch.zeros_like(class_means_CD).index_add_(0, label_N, samples_ND) / count_C.clamp_min(1)[:, None]
    freedom_C = (count_C - 1).clamp_min(0).float()
    r = min(directions, dim, int(freedom_C.sum()))
    if r == 0:
        empty = samples_ND.new_zeros(classes, 0, 0)
        return LocalCovariance(samples_ND.new_zeros(dim, 0), empty, 1.0)
    total_DD = samples_ND.T @ samples_ND - (mean_CD * count_C[:, None]).T @ mean_CD
    basis_DR = torch.linalg.eigh(total_DD)[1][:, -r:]

    donors_J = freedom_C.nonzero().squeeze(1)
    scatter_JRR = _scatters(samples_ND @ basis_DR, count_C, donors_J)
    pooled_RR = scatter_JRR.sum(0) / freedom_C.sum()
    covariance_CRR = samples_ND.new_empty(classes, r, r)
    step = max(1, BLOCK_ELEMENTS // len(donors_J))
    for start in range(0, classes, step):
        similarity_cJ = class_means_CD[start : start + step] @ class_means_CD[donors_J].T
        weights, freedom_c = _neighbourhoods(similarity_cJ, freedom_C[donors_J], pool)
        summed_cRR = torch.sparse.mm(weights, scatter_JRR.flatten(1)).unflatten(1, (r, r))
        covariance_CRR[start : start + step] = (summed_cRR + prior * pooled_RR) / (freedom_c + prior)[:, None, None]
    trace_C = covariance_CRR.diagonal(dim1=1, dim2=2).sum(1)
    effective_C = covariance_CRR.square().sum((1, 2)) / trace_C.clamp_min(1e-12)
    covariance_CRR /= effective_C.clamp_min(1e-12)[:, None, None]
    return LocalCovariance(basis_DR, covariance_CRR, _expected_length(mean_CD, count_C))


def _scatters(projected_NR: Tensor, count_C: Tensor, donors_J: Tensor) -> Tensor:
    # Classes with equally many samples form one batched product; there are few different numbers of samples.
    start_C = count_C.cumsum(0) - count_C
    r = projected_NR.shape[1]
    scatter_JRR = projected_NR.new_empty(len(donors_J), r, r)
    for count in count_C[donors_J].unique().tolist():
        place = (count_C[donors_J] == count).nonzero().squeeze(1)
        for part in place.split(max(1, BLOCK_ELEMENTS // (r * max(r, count)))):
            rows = start_C[donors_J[part]][:, None] + torch.arange(count, device=start_C.device)
            centred = projected_NR[rows] - projected_NR[rows].mean(1, keepdim=True)
            scatter_JRR[part] = centred.transpose(1, 2) @ centred
    return scatter_JRR


def _neighbourhoods(similarity_cJ: Tensor, freedom_J: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    # 0/1 rows over the donors, most similar first until their degrees of freedom reach the pool, and their sums.
    most = int((freedom_J.sort()[0].cumsum(0) < pool).sum()) + 1
    nearest_ck = similarity_cJ.topk(min(most, len(freedom_J)), dim=1).indices
    freedom_ck = freedom_J[nearest_ck]
    taken_ck = freedom_ck.cumsum(1) - freedom_ck < pool
    row, column = taken_ck.nonzero(as_tuple=True)
    places = torch.stack([row, nearest_ck[row, column]])
    weights = torch.sparse_coo_tensor(places, torch.ones(len(row), device=row.device), similarity_cJ.shape)
    return weights, (freedom_ck * taken_ck).sum(1)


def _expected_length(mean_CD: Tensor, count_C: Tensor) -> float:
    # |sum|^2 - n is the sum of the cosines of all n (n - 1) pairs.
    pairs = (count_C * (count_C - 1)).sum()
    cosines = (mean_CD * count_C[:, None]).square().sum(1) - count_C
    return float((cosines.sum() / pairs).clamp(0.01, 1).sqrt())
