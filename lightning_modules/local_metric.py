# SPDX-License-Identifier: MIT
"""How the samples of an identity vary, learned from its own and from those of its neighbours in the cluster.

Axes: N samples, C classes of one cluster, G groups of classes, D embedding dimension, R directions, J classes with two
or more samples, M clusters.

Cosine treats all directions alike. Samples of one person differ more in some directions (pose, age, pen), and people
who resemble each other vary alike, so the covariance of a group of similar classes is pooled over the classes around
it and shrunk to that of the cluster; distances are then measured in units of it. With one covariance for all classes
this is within-class covariance normalisation (Hatch, Kajarekar & Stolcke, Interspeech 2006), with one per class
regularised discriminant analysis (Friedman, JASA 84, 1989).
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import local_split
from datamodules.partitioners.samples import TrainingSamples

BLOCK_ELEMENTS = 1 << 24  # of intermediate results: 64 MiB of float32
LEARN_ROWS = 1 << 19  # samples of a cluster that covariances are learned from; 1 GiB at D = 512


@dataclass(frozen=True)
class LocalCovariance:
    """Covariance of the samples around their class mean, for each group of similar classes of one cluster.

    Attributes:
        basis_DR: orthonormal directions of largest within-class variance in the cluster.
        covariance_GRR: of each group in these directions, divided by its effective eigenvalue tr(W^2) / tr(W), so that
            strengths mean the same for every group, data set and R.
        pooled_RR: the same of the whole cluster.
        group_C: (C,) int64 group of each class.
        length: t in (0, 1], length of the mean of infinitely many unit samples of a class: the square root of the mean
            cosine between two samples of one class. Estimated means come out longer, that of one sample with length 1.
    """

    basis_DR: Tensor
    covariance_GRR: Tensor
    pooled_RR: Tensor
    group_C: Tensor
    length: float

    def metric(self, strength: float) -> Tensor:
        """(I + strength W)^-1 - I, what the covariance takes from the squared distance: (G, R, R), between -I and 0.

        Args:
            strength: 0 for the plain distance; 1 halves the squared distance in a direction of effective variance.
        """
        return _metric(self.covariance_GRR, strength)

    def pooled_metric(self, strength: float) -> Tensor:
        """The same of the whole cluster: (R, R)."""
        return _metric(self.pooled_RR[None], strength)[0]


def _metric(covariance_GRR: Tensor, strength: float) -> Tensor:
    identity = torch.eye(covariance_GRR.shape[1], device=covariance_GRR.device)
    step = max(1, BLOCK_ELEMENTS // max(1, identity.numel()))
    return torch.cat([torch.linalg.inv(identity + strength * part) - identity for part in covariance_GRR.split(step)])


def given_back(offset_bTR: Tensor, metric_GRR: Tensor, group_bT: Tensor | None = None) -> Tensor:
    """-o' M o / 2, half of what the metric takes from the squared distance: (b, T), at least 0.

    Args:
        offset_bTR: probe less class mean, in the directions of the cluster.
        metric_GRR: (G, R, R) of any floating dtype; or (R, R), one for all.
        group_bT: (b, T) int64 whose metric applies; not needed for one.
    """
    if metric_GRR.ndim == 2:
        return -((offset_bTR @ metric_GRR.to(offset_bTR.dtype)) * offset_bTR).sum(2) / 2
    r = offset_bTR.shape[-1]
    offset_NR, group_N = offset_bTR.flatten(0, 1), group_bT.flatten()
    order = torch.argsort(group_N, stable=True)
    present, counts = torch.unique_consecutive(group_N[order], return_counts=True)
    found_N = offset_NR.new_zeros(len(offset_NR))
    if r:  # group by group: a gather of one metric per candidate would move R^2 numbers for each
        for group, which in zip(present.tolist(), torch.split(order, counts.tolist()), strict=True):
            offset_nR = offset_NR[which]
            found_N[which] = -((offset_nR @ metric_GRR[group].to(offset_nR.dtype)) * offset_nR).sum(1) / 2
    return found_N.view(group_bT.shape)


def learn_cluster(
    class_means_KD: Tensor, members_C: np.ndarray, samples: TrainingSamples, directions: int, pool: int, prior: int,
    shared_by: int,
) -> LocalCovariance:  # fmt: skip
    """`learn` from the training samples of one cluster, of at most 524,288 of them evenly over the classes.

    Args:
        class_means_KD: (K, D) float32 unit class means.
        members_C: (C,) identities of the cluster, ascending.
        samples: all training samples.
        directions, pool, prior, shared_by: see `learn`.
    """
    split = local_split(samples.split, members_C)
    rows, labels = split.rows, split.labels
    if len(rows) > LEARN_ROWS:
        counts = np.bincount(labels)
        rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
        kept = rank < max(2, LEARN_ROWS // len(counts))
        rows, labels = rows[kept], labels[kept]
    device = class_means_KD.device
    samples_ND = torch.from_numpy(normalise_rows(samples.embeddings_ND[rows])).to(device)
    label_N = torch.from_numpy(labels.astype(np.int64)).to(device)
    means_CD = class_means_KD[torch.from_numpy(members_C.astype(np.int64)).to(device)]
    return learn(samples_ND, label_N, means_CD, directions, pool, prior, shared_by)


def learn(
    samples_ND: Tensor, label_N: Tensor, class_means_CD: Tensor, directions: int, pool: int, prior: int,
    shared_by: int = 1,
) -> LocalCovariance:  # fmt: skip
    """Covariances of the groups of classes of one cluster.

    The covariance of a group is (sum of scatters + prior G) / (degrees of freedom + prior), the mean of its posterior
    under an inverse Wishart prior around the cluster's pooled covariance G. The scatters are those of the classes
    whose means are most similar to the centre of the group, until they have `pool` degrees of freedom (samples beyond
    the first of each class) together.

    Args:
        samples_ND: (N, D) float32 unit training samples of the cluster.
        label_N: (N,) int64 class of each, in [0, C), non-decreasing.
        class_means_CD: (C, D) float32 unit class means.
        directions: R at most; there are fewer where the cluster has fewer degrees of freedom.
        pool: degrees of freedom of a neighbourhood, at least 1.
        prior: degrees of freedom that the cluster's covariance counts for, at least 0.
        shared_by: classes of a group on average, at least 1; groups are found by k-means of the class means.

    Returns:
        With R = 0 and length 1 where no class has two samples.
    """
    classes, dim = class_means_CD.shape
    centre_GD, group_C = _groups(class_means_CD, shared_by)
    count_C = torch.bincount(label_N, minlength=classes)
    mean_CD = torch.zeros_like(class_means_CD).index_add_(0, label_N, samples_ND) / count_C.clamp_min(1)[:, None]
    freedom_C = (count_C - 1).clamp_min(0).float()
    r = min(directions, dim, int(freedom_C.sum()))
    if r == 0 or not freedom_C.any():
        none_GRR = samples_ND.new_zeros(len(centre_GD), 0, 0)
        return LocalCovariance(samples_ND.new_zeros(dim, 0), none_GRR, samples_ND.new_zeros(0, 0), group_C, 1.0)
    total_DD = samples_ND.T @ samples_ND - (mean_CD * count_C[:, None]).T @ mean_CD
    basis_DR = torch.linalg.eigh(total_DD)[1][:, -r:]

    donors_J = freedom_C.nonzero().squeeze(1)
    scatter_JRR = _scatters(samples_ND @ basis_DR, count_C, donors_J)
    pooled_RR = scatter_JRR.sum(0) / freedom_C.sum()
    covariance_GRR = samples_ND.new_empty(len(centre_GD), r, r)
    for group, centre_D in enumerate(centre_GD):
        order_J = torch.argsort(class_means_CD[donors_J] @ centre_D, descending=True)
        freedom_J = freedom_C[donors_J[order_J]]
        taken = order_J[freedom_J.cumsum(0) - freedom_J < pool]
        freedom = freedom_C[donors_J[taken]].sum()
        covariance_GRR[group] = (scatter_JRR[taken].sum(0) + prior * pooled_RR) / (freedom + prior)
    length = _expected_length(mean_CD, count_C)
    return LocalCovariance(basis_DR, _scaled(covariance_GRR), _scaled(pooled_RR[None])[0], group_C, length)


def _scaled(covariance_GRR: Tensor) -> Tensor:
    trace_G = covariance_GRR.diagonal(dim1=1, dim2=2).sum(1)
    effective_G = covariance_GRR.square().sum((1, 2)) / trace_G.clamp_min(1e-12)
    return covariance_GRR / effective_G.clamp_min(1e-12)[:, None, None]


def _groups(class_means_CD: Tensor, shared_by: int) -> tuple[Tensor, Tensor]:
    classes = len(class_means_CD)
    n_groups = -(-classes // shared_by)
    if n_groups == classes:
        return class_means_CD, torch.arange(classes, device=class_means_CD.device)
    found = KMeans(n_groups, n_init=1, max_iter=20, random_state=0).fit(class_means_CD.cpu().numpy())
    centre_GD = F.normalize(torch.from_numpy(found.cluster_centers_)).to(class_means_CD)
    return centre_GD, torch.from_numpy(found.labels_.astype(np.int64)).to(class_means_CD.device)


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


def _expected_length(mean_CD: Tensor, count_C: Tensor) -> float:
    # |sum|^2 - n is the sum of the cosines of all n (n - 1) pairs.
    pairs = (count_C * (count_C - 1)).sum()
    cosines = (mean_CD * count_C[:, None]).square().sum(1) - count_C
    return float((cosines.sum() / pairs).clamp(0.01, 1).sqrt())
