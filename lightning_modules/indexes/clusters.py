# SPDX-License-Identifier: MIT
"""The partition as index: its clusters are the cells of a coarse quantiser, made already.

Axes: B probes, K identities, M clusters, L clusters looked into, P candidates, D embedding dimension.
"""

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import BLOCK_ELEMENTS, ClassIndex, Search, completed


class Clusters(ClassIndex):
    """Looks at the class means of the L clusters whose centre is nearest, as an inverted file does (Jegou et al. 2011).

    A probe's cells are ordered by 2 x . c - |c|^2 with c the mean of a cluster's class means, the rule by which
    k-means assigned the class means themselves. Costs M + L K / M products per probe, no training, and a copy of the
    class means in the order of the clusters, so that a cell is read in one piece.

    Args:
        n_clusters: L, at least 1; M or more looks at all class means.
    """

    def __init__(self, n_clusters: int = 8):
        if n_clusters < 1:
            raise InputError(f"n_clusters = {n_clusters}", "at least 1 cluster to look into", "correct the index")
        self.n_clusters = n_clusters

    def open(self, class_means_KD: Tensor, partition: Partition) -> Search | None:
        """See `ClassIndex.open`; an identity of several clusters lies in its home cluster."""
        if self.n_clusters >= partition.n_clusters:
            return None
        return completed(_Cells(class_means_KD, partition, self.n_clusters).search, class_means_KD)


class _Cells:
    def __init__(self, class_means_KD: Tensor, partition: Partition, n_clusters: int):
        device, home_K = class_means_KD.device, partition.cluster_of
        order_K = np.argsort(home_K, kind="stable")
        self.identity_K = torch.from_numpy(order_K).to(device)
        self.starts = [0, *np.cumsum(np.bincount(home_K, minlength=partition.n_clusters)).tolist()]
        in_order = bool((order_K[1:] > order_K[:-1]).all())
        self.means_KD = class_means_KD if in_order else class_means_KD[self.identity_K]
        self.n_clusters = n_clusters
        pieces = [self.means_KD[start:stop] for start, stop in zip(self.starts, self.starts[1:], strict=False)]
        self.centre_MD = torch.stack([piece.mean(0) for piece in pieces])
        self.half_square_M = self.centre_MD.square().sum(1) / 2

    def search(self, probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        near_BM = probes_BD @ self.centre_MD.T - self.half_square_M
        cells_BL = near_BM.topk(self.n_clusters, dim=1).indices
        return self._one(probes_BD[0], cells_BL[0], p) if len(probes_BD) == 1 else self._many(probes_BD, cells_BL, p)

    def _one(self, probe_D: Tensor, cells_L: Tensor, p: int) -> tuple[Tensor, Tensor]:
        # A cell is read once and not worth a product of matrices; places follow from the lengths of what was joined.
        spans = [(self.starts[cell], self.starts[cell + 1]) for cell in cells_L.tolist()]
        cosine_S = torch.cat([self.means_KD[start:stop] @ probe_D for start, stop in spans])
        identity_S = torch.cat([self.identity_K[start:stop] for start, stop in spans])
        found = cosine_S.topk(min(p, len(cosine_S)))
        cosine_1P, identity_1P = _empty(1, p, probe_D)
        cosine_1P[0, : len(found.values)], identity_1P[0, : len(found.values)] = found.values, identity_S[found.indices]
        return cosine_1P, identity_1P

    def _many(self, probes_BD: Tensor, cells_BL: Tensor, p: int) -> tuple[Tensor, Tensor]:
        # One product for each cell and all the probes that look into it.
        b, n_cells = cells_BL.shape
        cosine_BLP, identity_BLP = (part.view(b, n_cells, p) for part in _empty(b, n_cells * p, probes_BD))
        order_X = torch.argsort(cells_BL.flatten(), stable=True)
        cells, counts = torch.unique_consecutive(cells_BL.flatten()[order_X], return_counts=True)
        for cell, pairs_x in zip(cells.tolist(), torch.split(order_X, counts.tolist()), strict=True):
            start, stop = self.starts[cell], self.starts[cell + 1]
            width = min(p, stop - start)
            for pairs in torch.split(pairs_x, max(1, BLOCK_ELEMENTS // (stop - start))):
                probe, place = pairs // n_cells, pairs % n_cells
                found = (probes_BD[probe] @ self.means_KD[start:stop].T).topk(width, dim=1)
                cosine_BLP[probe, place, :width] = found.values
                identity_BLP[probe, place, :width] = self.identity_K[start + found.indices]
        best = cosine_BLP.flatten(1).topk(p, dim=1)
        return best.values, identity_BLP.flatten(1).gather(1, best.indices)


def _empty(rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    cosine = torch.full((rows, columns), -torch.inf, device=like.device)
    return cosine, torch.full((rows, columns), -1, dtype=torch.long, device=like.device)
