# SPDX-License-Identifier: MIT
"""The scores of probes. Axes: B probes, K identities, M clusters, P candidates, D embedding dimension."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.errors import InputError
from datamodules.lazy import short_repr
from datamodules.partitioners.base import Partition
from lightning_modules.heads.base import Head
from lightning_modules.indexes.base import Rows, Search, exact_search

BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32


@dataclass(frozen=True)
class Heads:
    """The trained heads of all sub-networks, in the order of the clusters.

    The classes of cluster c are `partition.members(c)`, in that order. Linear heads are kept as one matrix of rows.
    """

    partition: Partition
    rows_SD: Tensor | None = None  # float32, the R rows of an identity in succession; None if heads are not linear
    modules: tuple[Head, ...] = ()  # the M heads; empty for linear ones
    rows_per_class: int = 1  # R; the largest of the R outputs of an identity counts
    made_by: dict[str, Any] | None = None  # class and arguments of the modules, as `Identifier.save` writes them

    __repr__ = short_repr

    @classmethod
    def pack(
        cls, partition: Partition, heads: Iterable[Tensor | Head], made_by: dict[str, Any] | None = None
    ) -> "Heads":
        """Joins the heads of every cluster, or their (C R, D) rows, in the order of the clusters."""
        total, joined, end, rows_per_class = int(partition.sizes().sum()), None, 0, 1
        modules: list[Head] = []
        for head in heads:  # one after the other: the rows of a million identities are not held twice
            rows_CD = head if isinstance(head, Tensor) else head.linear_rows()
            if rows_CD is None:
                assert isinstance(head, Head)
                modules.append(head)
                continue
            if joined is None:
                rows_per_class = len(rows_CD) // len(partition.members(0))
                joined = rows_CD.new_empty((total * rows_per_class, rows_CD.shape[1]))
            joined[end : end + len(rows_CD)] = rows_CD
            end += len(rows_CD)
        return cls(partition, joined, tuple(modules), rows_per_class, made_by)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """M + 1 places in `rows_SD` where clusters start and the last one ends."""
        return (0, *(np.cumsum(self.partition.sizes()) * self.rows_per_class).tolist())

    @cached_property
    def identity_S(self) -> Tensor:
        """(S,) int64 identity of each row, or of each class if heads are not linear."""
        members = [self.partition.members(cluster).astype("int64") for cluster in range(self.partition.n_clusters)]
        return torch.from_numpy(np.concatenate(members)).repeat_interleave(self.rows_per_class).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return (next(self.modules[0].parameters()) if self.rows_SD is None else self.rows_SD).device

    @property
    def parameters(self) -> int:
        """Numbers of all heads."""
        values = (value for module in self.modules for value in module.parameters())
        return sum(value.numel() for value in (values if self.rows_SD is None else [self.rows_SD]))

    def linear(self, purpose: str) -> Tensor:
        """(S, D) rows of linear heads. Raises InputError: heads that are not linear."""
        if self.rows_SD is None:
            kind = type(self.modules[0]).__name__
            raise InputError(f"{purpose} with {kind}", "heads whose scores are products with rows", "use head=linear")
        return self.rows_SD

    def rows(self, cluster: int) -> Tensor:
        """(C R, D) rows of a cluster with a linear head."""
        return self.rows_SD[self.starts[cluster] : self.starts[cluster + 1]]

    def by_identity(self) -> Rows:
        """The rows of linear heads on the CPU, one for each identity, without overlapping clusters."""
        place_of = np.full(len(self.identity_S) + 1, -1)
        place_of[self.identity_S.cpu().numpy()] = np.arange(len(self.identity_S))
        return Rows(np.ascontiguousarray(self.linear("rows by identity").cpu().numpy()), place_of)

    def identities(self, cluster: int) -> Tensor:
        """(C,) int64 identities of the classes of a cluster."""
        return self.identity_S[self.starts[cluster] : self.starts[cluster + 1] : self.rows_per_class]

    def scores(self, cluster: int, unit_bD: Tensor) -> Tensor:
        """(b, C) scores of the classes of a cluster, of probes of unit length."""
        if self.rows_SD is None:
            return self.modules[cluster].scores(unit_bD)
        score_bC = unit_bD @ self.rows(cluster).T
        return score_bC if self.rows_per_class == 1 else score_bC.unflatten(1, (-1, self.rows_per_class)).amax(2)


def unit_probes(probes_BD: Tensor) -> Tensor:
    """Rows divided by their length, (B, D) float32; zeros for a row with NaN or infinity, or of zeros."""
    # Squares of numbers like 1e20 or 1e-25 are no float32.
    length_B1 = torch.linalg.vector_norm(probes_BD, dim=1, keepdim=True, dtype=torch.float64)
    return (probes_BD / length_B1).nan_to_num_(0.0).float()


def routed(clusters_BP: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each routed cluster of the int64 `clusters_BP`, -1 for none.

    With it the (b,) probes that look into it, ascending, and the (b,) place of it in their route.
    """
    probe_N, place_N = (clusters_BP >= 0).nonzero(as_tuple=True)
    cluster_N = clusters_BP[probe_N, place_N]
    order = torch.argsort(cluster_N, stable=True)
    present, counts = torch.unique_consecutive(cluster_N[order], return_counts=True)
    for cluster, which in zip(present.tolist(), torch.split(order, counts.tolist()), strict=True):
        yield cluster, probe_N[which], place_N[which]


class ProbeScores:
    """Scores of B probes against class means, cluster centres and heads. Everything is computed when first used.

    Args:
        probes_BD: embeddings of any length.
        class_means_KD: float32, of unit length.
        heads: None if no sub-network was trained (KNN).
        centres: gives the (M, D) cluster centres; None computes them, which costs a pass over the class means.
        search: of an index over the class means; None looks at all of them.
    """

    def __init__(self, probes_BD: Tensor, class_means_KD: Tensor, partition: Partition, heads: Heads | None,
        centres: Callable[[], Tensor] | None = None, search: Search | None = None,
    ):  # fmt: skip
        self.probes_BD = unit_probes(probes_BD)
        self.class_means_KD, self.partition, self.heads = class_means_KD, partition, heads
        self.centres = centres or partial(cluster_centres, class_means_KD, partition)
        self.search = search or exact_search(class_means_KD)
        self._nearest: dict[int, tuple[Tensor, Tensor]] = {}
        self._head_best: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.probes_BD)

    @cached_property
    def cluster_of_K(self) -> Tensor:
        """(K,) int64 home cluster of each identity."""
        return torch.from_numpy(self.partition.cluster_of).long().to(self.probes_BD.device)

    @cached_property
    def centre_cosine_BM(self) -> Tensor:
        """(B, M) cosine between probe and the mean of the class means of each cluster."""
        return self.probes_BD @ self.centres().T

    def nearest_classes(self, p: int = 1) -> tuple[Tensor, Tensor]:
        """The p >= 1 class means with the highest cosine, or those that the index finds; at most K.

        Returns (B, P) cosines, descending, and (B, P) int64 identities; equal ones come in any order.
        """
        p = min(p, len(self.class_means_KD))
        if p not in self._nearest:
            self._nearest[p] = self.search(self.probes_BD, p)
        return self._nearest[p]

    @property
    def head_best(self) -> tuple[Tensor, Tensor]:
        """The best class of all M heads: (B, M) highest output and (B, M) int64 its identity."""
        if self._head_best is None:
            columns = [self._in_head(cluster, None) for cluster in range(self.partition.n_clusters)]
            outputs, identities = zip(*columns, strict=True)
            self._head_best = torch.stack(outputs, 1), torch.stack(identities, 1)
        return self._head_best

    def head_log_odds(self, scale: float) -> Tensor:
        """Log-odds of the softmax probability of the best class of each head, over outputs multiplied by `scale`.

        (B, M) float32, +inf for a head of a single class. log p / (1 - p) = z_max - logsumexp of the other z; where p
        itself rounds to 1 in float32 (a lead of 0.26 at scale 64, usual after training) it still tells heads apart.
        """
        columns = []
        for cluster, classes in enumerate(self.partition.sizes().tolist()):
            blocks = []
            for probes_bD in torch.split(self.probes_BD, max(1, BLOCK_ELEMENTS // classes)):
                z_bC = self.heads.scores(cluster, probes_bD) * scale
                best_b, place_b = z_bC.max(1)
                blocks.append(best_b - z_bC.scatter_(1, place_b[:, None], -torch.inf).logsumexp(1))
            columns.append(torch.cat(blocks))
        return torch.stack(columns, 1)

    def best_in_cluster(self, clusters_B: Tensor) -> tuple[Tensor, Tensor]:
        """The best class of one head per probe: needs only the heads of the (B,) int64 clusters; -1 for none.

        Returns (B,) highest output, -inf if there is no cluster, and (B,) int64 its identity, -1 for none.
        """
        if self._head_best is not None:
            output_BM, identity_BM = self._head_best
            column_B1, none_B = clusters_B.clamp_min(0)[:, None], clusters_B < 0
            output_B = output_BM.gather(1, column_B1).squeeze(1).masked_fill(none_B, -torch.inf)
            return output_B, identity_BM.gather(1, column_B1).squeeze(1).masked_fill(none_B, -1)
        if len(self) == 1 and (cluster := int(clusters_B)) >= 0:
            return self._in_head(cluster, None)
        output_B = torch.full((len(self),), -torch.inf, device=self.probes_BD.device)
        identity_B = torch.full((len(self),), -1, dtype=torch.long, device=self.probes_BD.device)
        for cluster, which_b, _ in routed(clusters_B[:, None]):
            output_B[which_b], identity_B[which_b] = self._in_head(cluster, which_b)
        return output_B, identity_B

    def _in_head(self, cluster: int, which: Tensor | None) -> tuple[Tensor, Tensor]:
        identity_C = self.heads.identities(cluster)
        probes_bD = self.probes_BD if which is None else self.probes_BD[which]
        step = max(1, BLOCK_ELEMENTS // (len(identity_C) * self.heads.rows_per_class))
        blocks = [self.heads.scores(cluster, block_bD).max(1) for block_bD in probes_bD.split(step)]
        highest_b, place_b = blocks[0] if len(blocks) == 1 else (torch.cat(part) for part in zip(*blocks, strict=True))
        return highest_b, identity_C[place_b]


def cluster_centres(class_means_KD: Tensor, partition: Partition) -> Tensor:
    """Mean of the class means of each cluster's members, L2-normalised: (M, D) float32."""
    members = [torch.from_numpy(partition.members(c).astype("int64")) for c in range(partition.n_clusters)]
    return F.normalize(torch.stack([class_means_KD[m.to(class_means_KD.device)].mean(0) for m in members]))
