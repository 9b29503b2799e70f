# SPDX-License-Identifier: MIT
"""How the samples of an identity vary, learned from its own and from those of the identities around it.

Axes: N samples, K identities, J identities with two or more samples, S strengths, D embedding dimension, R directions.

The covariance of an identity is pooled over those around it and shrunk to that of all; distances are measured in units
of it. With one covariance for all this is within-class covariance normalisation (Hatch, Kajarekar & Stolcke,
Interspeech 2006), with one per class regularised discriminant analysis (Friedman, JASA 84, 1989).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.indexes.base import exact_search
from lightning_modules.indexes.ivf import InvertedFile

BLOCK_ELEMENTS = 1 << 22  # of intermediate results: 16 MiB of float32
SAMPLE_ELEMENTS = 1 << 26  # of samples held at a time: 256 MiB of float32
LEARN_ROWS = 1 << 20  # samples that covariances are learned from, two of each identity at least
EXACT_PRODUCTS = 10**10  # class means times class means up to which neighbours are exact
SAMPLES_KEPT = 16  # of an identity: 3 kB in half precision at R = 96
FACTORS_AT_ONCE = 32
NEIGHBOURS_AT_ONCE = 512
CACHE_BYTES = 1 << 28  # factors of metrics that are kept for the next probes
OF_ALL = -1  # in place of an identity


@dataclass(frozen=True)
class LocalMetric:
    """The samples around their class means, in the directions of largest variance; metrics are made when asked for."""

    basis_DR: Tensor  # orthonormal directions of largest within-class variance
    whole_RR: Tensor  # covariance over all identities
    centred_NR: Tensor  # samples less the part along their class mean, sorted by identity; any floating dtype
    start_K: Tensor  # (K + 1,) int64 places where the samples of an identity begin
    projected_KR: Tensor  # t mean_c in the directions
    near_Kj: Tensor  # int32 neighbours of each identity, most similar first; -1 fills up
    mean_length_K: Tensor  # mean cosine of the samples of an identity with its class mean
    count_K: Tensor  # int64 training samples that the class mean is of, kept or not
    # t in (0, 1], length of the mean of infinitely many unit samples of a class: the square root of the mean cosine
    # between two samples of one class. Estimated means come out longer, that of one sample with length 1.
    length: float
    prior: int  # degrees of freedom that the covariance of all counts for
    _cache: dict[tuple[int, tuple[float, ...]], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def covariances(self, identity_I: Tensor) -> Tensor:
        """(I, R, R) covariances of identities, each divided by its effective eigenvalue tr(W^2) / tr(W).

        It is (sum of scatters + prior G) / (degrees of freedom + prior), the mean of the posterior under an inverse
        Wishart prior around the covariance G of all, with the scatters of its neighbours. After the division strengths
        mean the same for every identity, data set and R.
        """
        near_Ij = self.near_Kj[identity_I].long()
        count_Ij = (self.start_K[near_Ij + 1] - self.start_K[near_Ij]).masked_fill(near_Ij < 0, 0)
        count_X = count_Ij.flatten()
        first_X = self.start_K[near_Ij].flatten() - (count_X.cumsum(0) - count_X)
        place_N = first_X.repeat_interleave(count_X)
        place_N += torch.arange(len(place_N), device=place_N.device)
        rows_NR = self.centred_NR.index_select(0, place_N).float()
        of_each = rows_NR.split(count_Ij.sum(1).tolist())
        freedom_I = count_Ij.sum(1) - (near_Ij >= 0).sum(1)
        scatter_IRR = torch.stack([rows_nR.T @ rows_nR for rows_nR in of_each]) + self.prior * self.whole_RR
        return scaled(scatter_IRR / (freedom_I + self.prior)[:, None, None])

    def given_back(self, offset_NR: Tensor, identity_N: Tensor | None, strengths: tuple[float, ...]) -> Tensor:
        """(o' o - o' (I + strength W)^-1 o) / 2, at least 0: (S, N) halves of what the metric takes from |o|^2.

        Strength 1 halves the squared distance in a direction of effective variance. W is the covariance of the
        identity, or of all for None.
        """
        found_SN = offset_NR.new_zeros(len(strengths), len(offset_NR))
        if not offset_NR.numel():
            return found_SN
        if identity_N is None:
            identity_N = torch.full((len(offset_NR),), OF_ALL, device=offset_NR.device)
        sorted_N, order_N = identity_N.sort(stable=True)
        present, counts = torch.unique_consecutive(sorted_N, return_counts=True)
        of_each = order_N.split(counts.tolist())
        for start in range(0, len(present), FACTORS_AT_ONCE):
            part = slice(start, start + FACTORS_AT_ONCE)
            for factor_SRR, which_n in zip(self._factors(present[part], strengths), of_each[part], strict=True):
                offset_nR = offset_NR[which_n]
                offset_SRn = offset_nR.T.expand(len(strengths), -1, -1)
                short_SRn = torch.linalg.solve_triangular(factor_SRR, offset_SRn, upper=False)
                found_SN[:, which_n] = (offset_nR.square().sum(1) - short_SRn.square().sum(1)) / 2
        return found_SN

    def _factors(self, identity_I: Tensor, strengths: tuple[float, ...]) -> list[Tensor]:
        # Cholesky factors (S, R, R) of I + strength W for each identity.
        keys = [(identity, strengths) for identity in identity_I.tolist()]
        found = [self._cache.get(key) for key in keys]
        if missing := [place for place, factor in enumerate(found) if factor is None]:
            of_all = keys[missing[0]][0] == OF_ALL
            covariance_IRR = scaled(self.whole_RR)[None] if of_all else self.covariances(identity_I[missing])
            by_strength_S11 = covariance_IRR.new_tensor(strengths)[:, None, None]
            unit_RR = torch.eye(covariance_IRR.shape[-1], device=covariance_IRR.device)
            made_ISRR = torch.linalg.cholesky(unit_RR + by_strength_S11 * covariance_IRR[:, None])
            room = CACHE_BYTES // made_ISRR[0].nbytes - len(self._cache)
            self._cache.update(
                (keys[place], made) for place, made in zip(missing[: max(0, room)], made_ISRR, strict=False)
            )
            for place, made in zip(missing, made_ISRR, strict=True):
                found[place] = made
        return found

    def with_samples(self, cosine_N: Tensor, along_NR: Tensor, identity_N: Tensor, left_out_N: Tensor) -> Tensor:
        """(N,) highest cosine of a probe with a kept sample of an identity; -1 if there is none.

        A sample is L_c mean_c + z, with the mean cosine L_c and z in the R directions: what lies beside them is left
        out.

        Args:
            cosine_N: of probe and class mean.
            along_NR: the probe in the directions.
            left_out_N: int64 places in `centred_NR` of samples that do not count, -1 for none.
        """
        place_m, last = torch.arange(SAMPLES_KEPT, device=cosine_N.device), len(self.centred_NR) - 1
        parts = []
        for which_n in torch.arange(len(cosine_N)).split(BLOCK_ELEMENTS // (SAMPLES_KEPT * max(1, along_NR.shape[1]))):
            identity_n = identity_N[which_n]
            place_nm = self.start_K[identity_n][:, None] + place_m
            not_nm = (place_nm >= self.start_K[identity_n + 1][:, None]) | (place_nm == left_out_N[which_n][:, None])
            part_nm = (self.centred_NR[place_nm.clamp_max(last)].float() @ along_NR[which_n][..., None])[..., 0]
            along_n = self.mean_length_K[identity_n] * cosine_N[which_n]
            parts.append((part_nm.masked_fill(not_nm, -torch.inf).amax(1) + along_n).clamp_min(-1))
        return torch.cat(parts) if parts else cosine_N


def learn(
    class_means_KD: Tensor, samples: TrainingSamples, directions: int, pool: int, prior: int,
    donor_K: Tensor | None = None, asked_I: Tensor | None = None,
) -> LocalMetric:  # fmt: skip
    """Learns from the first 16 training samples of each identity, fewer if that is more than 1,048,576 in all.

    The neighbours of an identity are those with two or more samples whose class means are most similar to its own,
    itself among them, until they have `pool` degrees of freedom (samples beyond the first of each) together. Above
    100,000 identities an inverted file finds most of them. With R = 0 and length 1 if no identity has two samples.

    Args:
        class_means_KD: float32, of unit length.
        directions: R at most; there are fewer if there are fewer degrees of freedom.
        pool, prior: degrees of freedom, of a neighbourhood at least 1, of the covariance of all at least 0.
        donor_K: bool, the identities that directions and covariances are learned from; None for all.
        asked_I: int64, the identities whose neighbours are wanted; None for all.
    """
    device, (k, dim) = class_means_KD.device, class_means_KD.shape
    rows, labels = kept(samples, k)
    kept_K = torch.from_numpy(np.bincount(labels, minlength=k)).to(device)
    start_K = torch.cat([kept_K.new_zeros(1), kept_K.cumsum(0)])
    donor_K = torch.ones(k, dtype=torch.bool, device=device) if donor_K is None else donor_K
    freedom_K = (kept_K - 1).clamp_min(0) * donor_K
    mean_length_K, scatter_DD = torch.zeros(k, device=device), torch.zeros(dim, dim, device=device)
    for part, label_n, length_k, centred_nD in _around_means(class_means_KD, samples, rows, start_K):
        mean_length_K[part] = length_k
        of_donors_nD = centred_nD[donor_K[label_n]]
        scatter_DD += of_donors_nD.T @ of_donors_nD
    # |sum|^2 - n is the sum of the cosines of all n (n - 1) pairs. Class means are of all samples: n counts all.
    count_K = torch.from_numpy(np.bincount(samples.split.labels, minlength=k)).to(device)
    pairs = (count_K * (count_K - 1)).sum()
    cosines = ((count_K * mean_length_K).square() - count_K).sum()
    length = float((cosines / pairs).clamp(0.01, 1).sqrt()) if pairs else 1.0

    r = min(directions, dim, int(freedom_K.sum()))
    basis_DR = torch.linalg.eigh(scatter_DD)[1][:, dim - r :]
    whole_RR = basis_DR.T @ scatter_DD @ basis_DR / freedom_K.sum().clamp_min(1)
    wanted_ID = class_means_KD if asked_I is None else class_means_KD[asked_I]
    near_Kj = _neighbours(wanted_ID, class_means_KD, freedom_K, pool)[:, : None if r else 0]
    if asked_I is not None:
        near_Kj = near_Kj.new_full((k, near_Kj.shape[1]), -1).index_copy_(0, asked_I, near_Kj)
    blocks = _around_means(class_means_KD, samples, rows, start_K)
    centred_NR = torch.cat([(centred_nD @ basis_DR).half() for *_, centred_nD in blocks])
    projected_KR = length * class_means_KD @ basis_DR
    learned = basis_DR, whole_RR, centred_NR, start_K, projected_KR, near_Kj, mean_length_K, count_K
    return LocalMetric(*learned, length, prior)


def _around_means(
    class_means_KD: Tensor, samples: TrainingSamples, rows: np.ndarray, start_K: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    # Blocks of identities: which, the identity of each of their samples, their mean cosine with the class mean, and
    # the samples less the part along it. All samples of a million identities would be gigabytes.
    (k, dim), device = class_means_KD.shape, class_means_KD.device
    for first in range(0, k, step := max(1, SAMPLE_ELEMENTS // (SAMPLES_KEPT * dim))):
        part = slice(first, min(k, first + step))
        count_k = start_K[part.start : part.stop + 1].diff()
        place_k = torch.arange(len(count_k), device=device).repeat_interleave(count_k)
        block = rows[int(start_K[part.start]) : int(start_K[part.stop])]
        sample_nD = torch.from_numpy(normalise_rows(samples.embeddings_ND[block])).to(device)
        mean_nD = class_means_KD[part][place_k]
        cosine_n = (sample_nD * mean_nD).sum(1)
        length_k = torch.zeros(len(count_k), device=device).index_add_(0, place_k, cosine_n) / count_k.clamp_min(1)
        sample_nD -= length_k[place_k][:, None] * mean_nD
        yield part, place_k + first, length_k, sample_nD


def extended(local: LocalMetric, class_means_KD: Tensor, samples: TrainingSamples, pool: int) -> LocalMetric:
    """With samples of identities that follow those of `learn`, or further ones; 16 samples of each are kept.

    Directions, the covariance of all and the neighbours of the identities of `learn` stay.

    Args:
        class_means_KD: float32, of unit length, of all K identities.
        samples: the new ones only, at least one of each new identity.
        pool: degrees of freedom, see `learn`.
    """
    device, known, k = class_means_KD.device, len(local.mean_length_K), len(class_means_KD)
    rows, labels = kept(samples, k)
    sample_ND = torch.from_numpy(normalise_rows(samples.embeddings_ND[rows])).to(device)
    new_N = torch.from_numpy(labels.astype(np.int64)).to(device)
    kept_K, kept_k = F.pad(local.start_K.diff(), (0, k - known)), torch.bincount(new_N, minlength=k)
    new_K = torch.from_numpy(np.bincount(samples.split.labels, minlength=k)).to(device)
    of_new_K = torch.zeros(k, device=device).index_add_(0, new_N, (sample_ND * class_means_KD[new_N]).sum(1))
    old_K = F.pad(local.count_K, (0, k - known))
    total_K = F.pad(local.mean_length_K, (0, k - known)) * old_K + of_new_K / kept_k.clamp_min(1) * new_K
    count_K = old_K + new_K
    mean_length_K = total_K / count_K
    sample_ND -= mean_length_K[new_N][:, None] * class_means_KD[new_N]

    label_N = torch.cat([torch.arange(k, device=device).repeat_interleave(kept_K), new_N])
    label_N, order_N = label_N.sort(stable=True)
    start_N = torch.searchsorted(label_N, label_N)
    few_N = torch.arange(len(label_N), device=device) - start_N < SAMPLES_KEPT
    kept_K = torch.bincount(label_N[few_N], minlength=k)
    centred_NR = torch.cat([local.centred_NR, (sample_ND @ local.basis_DR).to(local.centred_NR)])[order_N[few_N]]
    near_kj = _neighbours(class_means_KD[known:], class_means_KD, (kept_K - 1).clamp_min(0), pool)
    width = max(near_kj.shape[1], local.near_Kj.shape[1])
    near_Kj = torch.cat([F.pad(near, (0, width - near.shape[1]), value=-1) for near in (local.near_Kj, near_kj)])
    return LocalMetric(
        local.basis_DR, local.whole_RR, centred_NR, F.pad(kept_K.cumsum(0), (1, 0)),
        local.length * class_means_KD @ local.basis_DR, near_Kj, mean_length_K, count_K, local.length, local.prior,
    )  # fmt: skip


def kept(samples: TrainingSamples, n_identities: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) rows and (N,) labels of the samples that are learned from, sorted by identity."""
    order = np.argsort(samples.split.labels, kind="stable")
    rows, labels = samples.split.rows[order], samples.split.labels[order]
    counts = np.bincount(labels, minlength=n_identities)
    rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
    few = rank < min(SAMPLES_KEPT, max(2, LEARN_ROWS // n_identities))
    return rows[few], labels[few]


def _neighbours(of_kD: Tensor, class_means_KD: Tensor, freedom_K: Tensor, pool: int) -> Tensor:
    donors_J = freedom_K.nonzero().squeeze(1)
    freedom_J, means_JD = freedom_K[donors_J], class_means_KD[donors_J]
    most = min(int((freedom_J.sort()[0].cumsum(0) < pool).sum()) + 1, len(donors_J))
    search = exact_search(means_JD)
    if len(of_kD) * len(donors_J) > EXACT_PRODUCTS:  # a million identities: hours
        search = InvertedFile(n_probe=64, exact_below=None).fit(means_JD).open(means_JD)
    near_kj = torch.full((len(of_kD), most), -1, dtype=torch.int32, device=of_kD.device)
    for start in range(0, len(of_kD) if most else 0, NEIGHBOURS_AT_ONCE):
        block = slice(start, start + NEIGHBOURS_AT_ONCE)
        found_kj = search(of_kD[block], most)[1]
        freedom_kj = freedom_J[found_kj]
        taken_kj = freedom_kj.cumsum(1) - freedom_kj < pool
        near_kj[block] = donors_J[found_kj].masked_fill(~taken_kj, -1).int()
    return near_kj[:, : max((near_kj >= 0).sum(1).tolist(), default=0)]


def scaled(covariance_RR: Tensor) -> Tensor:
    """(..., R, R) covariances, each divided by its effective eigenvalue tr(W^2) / tr(W)."""
    trace = covariance_RR.diagonal(dim1=-2, dim2=-1).sum(-1)
    effective = covariance_RR.square().sum((-2, -1)) / trace.clamp_min(1e-12)
    return covariance_RR / effective.clamp_min(1e-12)[..., None, None]
