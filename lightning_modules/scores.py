# SPDX-License-Identifier: MIT
"""Where probes meet weights: the scores that routers and decisions are functions of, computed once, when asked for.

Axes: B probes, K identities, M clusters, P candidates, D embedding dimension.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import Search

BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32


@dataclass(frozen=True)
class Heads:
    """The trained rows of all sub-networks, one after another in the order of the clusters.

    Attributes:
        rows_SD: (S, D) float32; the rows of cluster c are those of `partition.members(c)`, in that order.
        starts: M + 1 places in `rows_SD` where clusters start and the last one ends.
        identity_S: (S,) int64 identity of each row.
        rows_per_class: R; the rows of an identity come in succession, and the largest of their outputs counts.
    """

    rows_SD: Tensor
    starts: tuple[int, ...]
    identity_S: Tensor
    rows_per_class: int = 1

    @classmethod
    def pack(cls, partition: Partition, rows: Iterable[Tensor]) -> "Heads":
        """Joins the (C, D) rows of every cluster, or (C R, D) of R per class, in the order of the clusters.

        Args:
            partition: which identity belongs where.
            rows: of each cluster.
        """
        identity = torch.cat(
            [torch.from_numpy(partition.members(c).astype("int64")) for c in range(partition.n_clusters)]
        )
        starts, joined, rows_per_class = [0], None, 1
        for rows_CD in rows:  # one after the other: the rows of a million identities are not held twice
            if joined is None:
                rows_per_class = len(rows_CD) // len(partition.members(0))
                joined = rows_CD.new_empty((len(identity) * rows_per_class, rows_CD.shape[1]))
            starts.append(starts[-1] + len(rows_CD))
            joined[starts[-2] : starts[-1]] = rows_CD
        return cls(joined, tuple(starts), identity.repeat_interleave(rows_per_class).to(joined.device), rows_per_class)


class ProbeScores:
    """Scores of B probes against class means, cluster centres and heads. Everything is computed when first used.

    Args:
        probes_BD: (B, D) embeddings of any length.
        class_means_KD: (K, D) float32 unit class means.
        partition: who belongs to which cluster.
        heads: trained rows, or None where no sub-network was trained (KNN).
        centres: gives the (M, D) cluster centres; None computes them, which costs a pass over the class means.
        search: of an index over the class means; None looks at all of them.
    """

    def __init__(self, probes_BD: Tensor, class_means_KD: Tensor, partition: Partition, heads: Heads | None,
        centres: Callable[[], Tensor] | None = None, search: Search | None = None,
    ):  # fmt: skip
        self.probes_BD = F.normalize(probes_BD.float())
        self.class_means_KD, self.partition, self.heads = class_means_KD, partition, heads
        self.centres = centres or partial(cluster_centres, class_means_KD, partition)
        self.search = search
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
        """The p class means with the highest cosine, or those that the index finds.

        Args:
            p: candidates, 1 <= p; more than K gives K.

        Returns:
            (B, P) cosines, descending, and (B, P) int64 identities.
        """
        p = min(p, len(self.class_means_KD))
        if p not in self._nearest and self.search is not None:
            self._nearest[p] = self.search(self.probes_BD, p)
        if p not in self._nearest:
            step = max(1, BLOCK_ELEMENTS // max(1, len(self)))
            best_BP, identity_BP = None, None
            for start in range(0, len(self.class_means_KD), step):
                cosine_Bk = self.probes_BD @ self.class_means_KD[start : start + step].T
                found_BP, place_BP = _top(cosine_Bk, min(p, cosine_Bk.shape[1]))
                place_BP = place_BP + start
                if best_BP is not None:
                    found_BP, place_BP = torch.cat([best_BP, found_BP], 1), torch.cat([identity_BP, place_BP], 1)
                    found_BP, order_BP = _top(found_BP, min(p, found_BP.shape[1]))
                    place_BP = place_BP.gather(1, order_BP)
                best_BP, identity_BP = found_BP, place_BP
            self._nearest[p] = best_BP, identity_BP
        return self._nearest[p]

    @property
    def head_best(self) -> tuple[Tensor, Tensor]:
        """The best class of every head: needs all M heads.

        Returns:
            (B, M) highest output and (B, M) int64 its identity.
        """
        if self._head_best is None:
            every = torch.arange(len(self), device=self.probes_BD.device)
            columns = [self._in_head(cluster, every) for cluster in range(self.partition.n_clusters)]
            outputs, identities = zip(*columns, strict=True)
            self._head_best = torch.stack(outputs, 1), torch.stack(identities, 1)
        return self._head_best

    def head_log_odds(self, scale: float) -> Tensor:
        """Log-odds of the softmax probability of the best class of each head, over outputs multiplied by `scale`.

        log p / (1 - p) = z_max - logsumexp of the other z; it ranks as p does, but where p itself rounds to 1 in
        float32 (a lead of 0.26 at scale 64, usual after training) it still tells heads apart.

        Args:
            scale: of the outputs, without dimension.

        Returns:
            (B, M) float32; +inf for a head of a single class.
        """
        columns = []
        for start, stop in zip(self.heads.starts[:-1], self.heads.starts[1:], strict=True):
            rows_CD = self.heads.rows_SD[start:stop] * scale
            blocks = []
            for probes_bD in torch.split(self.probes_BD, max(1, BLOCK_ELEMENTS // (stop - start))):
                z_bC = probes_bD @ rows_CD.T
                if self.heads.rows_per_class > 1:
                    z_bC = z_bC.unflatten(1, (-1, self.heads.rows_per_class)).amax(2)
                best_b, place_b = z_bC.max(1)
                blocks.append(best_b - z_bC.scatter_(1, place_b[:, None], -torch.inf).logsumexp(1))
            columns.append(torch.cat(blocks))
        return torch.stack(columns, 1)

    def best_in_cluster(self, clusters_B: Tensor) -> tuple[Tensor, Tensor]:
        """The best class of one head per probe: needs only the heads that are routed to.

        Args:
            clusters_B: (B,) int64 cluster of each probe; -1 for none.

        Returns:
            (B,) highest output, -inf where there is no cluster, and (B,) int64 its identity, -1 where none.
        """
        if self._head_best is not None:
            output_BM, identity_BM = self._head_best
            column_B1 = clusters_B.clamp_min(0)[:, None]
            none_B = clusters_B < 0
            output_B = output_BM.gather(1, column_B1).squeeze(1).masked_fill(none_B, -torch.inf)
            return output_B, identity_BM.gather(1, column_B1).squeeze(1).masked_fill(none_B, -1)
        output_B = torch.full((len(self),), -torch.inf, device=self.probes_BD.device)
        identity_B = torch.full((len(self),), -1, dtype=torch.long, device=self.probes_BD.device)
        order = torch.argsort(clusters_B, stable=True)
        sorted_clusters = clusters_B[order]
        present, counts = torch.unique_consecutive(sorted_clusters, return_counts=True)
        for cluster, which in zip(present.tolist(), torch.split(order, counts.tolist()), strict=True):
            if cluster >= 0:
                output_B[which], identity_B[which] = self._in_head(cluster, which)
        return output_B, identity_B

    def _in_head(self, cluster: int, which: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self.heads.starts[cluster], self.heads.starts[cluster + 1]
        rows_CD, identity_C = self.heads.rows_SD[start:stop], self.heads.identity_S[start:stop]
        step = max(1, BLOCK_ELEMENTS // (stop - start))
        blocks = []
        for chunk in torch.split(which, step):
            output_bC = self.probes_BD[chunk] @ rows_CD.T
            highest_b, place_b = output_bC.max(1)
            blocks.append((highest_b, identity_C[place_b]))
        highest, identities = zip(*blocks, strict=True)
        return torch.cat(highest), torch.cat(identities)


def _top(values_BX: Tensor, p: int) -> tuple[Tensor, Tensor]:
    if p == 1:
        best_B, place_B = values_BX.max(1)
        return best_B[:, None], place_B[:, None]
    return values_BX.topk(p, dim=1)


def cluster_centres(class_means_KD: Tensor, partition: Partition) -> Tensor:
    """Mean of the class means of each cluster's members, L2-normalised.

    Args:
        class_means_KD: (K, D) float32 unit class means.
        partition: who belongs to which cluster.

    Returns:
        (M, D) float32.
    """
    members = [torch.from_numpy(partition.members(c).astype("int64")) for c in range(partition.n_clusters)]
    return F.normalize(torch.stack([class_means_KD[m.to(class_means_KD.device)].mean(0) for m in members]))
