# SPDX-License-Identifier: MIT
"""F2C. Axes: B batch, P pairs of a step, Q slots of the pool, K identities, D embedding dimension."""

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import Batch
from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Predictor, unit_rows
from lightning_modules.baselines.hf_softmax import refuse_lengths_and_rows
from lightning_modules.heads.linear import LinearHead
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.subnetwork import SubNetwork


class ClassPool:
    """Unit features of the classes seen last, two per class; the class seen longest ago makes room."""

    def __init__(self, slots: int, dim: int):
        self.features_2QD = torch.zeros(2, slots, dim)
        self.twice_Q = torch.zeros(slots, dtype=torch.bool)  # slots whose second feature is of the class that holds it
        self.slot_of: OrderedDict[int, int] = OrderedDict()
        self.next_side: dict[int, int] = {}

    def put(self, identities: list[int], features_BD: Tensor) -> None:
        """Stores (B, D) unit features of distinct identities, at most one per slot; a class's two places alternate."""
        sides, slots = [], []
        for identity in identities:
            slot = self.slot_of.pop(identity, None)
            if slot is None:
                if len(self.slot_of) < len(self.twice_Q):
                    slot = len(self.slot_of)
                else:
                    gone, slot = self.slot_of.popitem(last=False)
                    del self.next_side[gone]
                self.twice_Q[slot] = False
                self.next_side[identity] = 0
            self.slot_of[identity] = slot
            sides.append(self.next_side[identity])
            slots.append(slot)
            self.next_side[identity] = 1 - sides[-1]
        side_B, slot_B = torch.tensor(sides), torch.tensor(slots)
        self.features_2QD[side_B, slot_B] = features_BD
        self.twice_Q[slot_B[side_B == 1]] = True

    def places(self, identities: list[int]) -> Tensor:
        """(B,) int64 slots of classes, -1 for one that is not in the pool."""
        return torch.tensor([self.slot_of.get(identity, -1) for identity in identities])

    def sides(self) -> tuple[Tensor, Tensor]:
        """The filled part of the pool twice, (q, D): first features, and second ones (the first where none)."""
        q = len(self.slot_of)
        first, second = self.features_2QD[:, :q].clone()
        return first, torch.where(self.twice_Q[:q, None], second, first)


class F2CNetwork(SubNetwork):
    """Trains a projection of frozen embeddings against the pool.

    P is a linear map that starts as the identity, G its exponential moving average. A step has two halves that swap
    their parts: G's features of one image of each pair refresh the pool, P's embedding of the other image, and of half
    of the batch's instances, are classified among the classes of the pool. An instance whose class is not in the pool
    is pushed away from the h pool features closest to it: mean of their cosines, cut off at 0.

    Args:
        rows_ND: unit training embeddings, from which pairs are drawn.
        labels_N: non-decreasing.
        momentum: of the moving average, 0.99 in the authors' code.
    """

    head: LinearHead
    average: LinearHead

    def __init__(
        self, rows_ND: Tensor, labels_N: Tensor, slots: int, loss: ClassificationLoss, optimizer, momentum: float,
        precision: str, generator: torch.Generator,
    ):  # fmt: skip
        dim = rows_ND.shape[1]
        super().__init__(LinearHead(torch.eye(dim), unit_rows=False, precision=precision), loss, optimizer)
        self.average = copy.deepcopy(self.head).requires_grad_(False)
        self.pool, self.momentum, self.generator = ClassPool(slots, dim), momentum, generator
        self.rows_ND, counts_K = rows_ND, torch.bincount(labels_N)
        self.starts_K, self.counts_K = counts_K.cumsum(0) - counts_K, counts_K

    def project(self, embedding_BD: Tensor) -> Tensor:
        """P's unit embedding of (B, D) embeddings of any length."""
        return F.normalize(self(embedding_BD))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Both halves of a step; the mean loss per sample and side of the pool. See `SubNetwork.training_step`."""
        embedding_BD, target_B = batch.unit_BD, batch.target_B
        identity_P, one_PD, other_PD = self._pairs(min(max(1, len(target_B) // 2), len(self.pool.twice_Q)))
        middle = -(-len(target_B) // 2)
        total, count = torch.zeros((), device=self.device), 0
        with matmul_precision(self.head.precision):
            for query_PD, key_PD, part in (
                (one_PD, other_PD, slice(None, middle)),
                (other_PD, one_PD, slice(middle, None)),
            ):
                with torch.no_grad():
                    self.pool.put(identity_P.tolist(), F.normalize(self.average(key_PD.to(self.device))).cpu())
                z_BD = self.project(torch.cat([query_PD.to(self.device), embedding_BD[part]]))
                label = identity_P.tolist() + target_B[part].tolist()
                loss_B = self._against_pool(z_BD, self.pool.places(label).to(self.device))
                total, count = total + loss_B.sum(), count + len(loss_B)
        self._train_sum.add(count, total.detach())
        self._learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return total / count

    def _pairs(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        identities = torch.randperm(len(self.counts_K), generator=self.generator)[:count]
        size_P = self.counts_K[identities]
        first_P = (torch.rand(len(identities), generator=self.generator) * size_P).long()
        shift_P = 1 + (torch.rand(len(identities), generator=self.generator) * (size_P - 1)).long()
        second_P = (first_P + shift_P) % size_P  # another image, if there is one
        start_P = self.starts_K[identities]
        return identities, self.rows_ND[start_P + first_P], self.rows_ND[start_P + second_P]

    def _against_pool(self, z_BD: Tensor, place_B: Tensor) -> Tensor:
        inside_B, loss_B = place_B >= 0, z_BD.new_zeros(len(z_BD))
        for side_QD in self.pool.sides():
            cosine_BQ = z_BD @ side_QD.to(z_BD.device).T
            near = min(max(int(2e-4 * cosine_BQ.shape[1]), 3), 10, cosine_BQ.shape[1])
            away_B = cosine_BQ.topk(near, 1).values.clamp_min(0).mean(1)
            known_B = self.loss(cosine_BQ, place_B.clamp_min(0))
            loss_B = loss_B + torch.where(inside_B, known_B, away_B) / 2
        return loss_B

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        with torch.no_grad():
            self.average.weight_CD.lerp_(self.head.weight_CD, 1 - self.momentum)


class F2C(Baseline):
    """A small pool of class features instead of a row for every class; a trained projection and class means decide.

    Wang et al., "An Efficient Training Approach for Very Large Scale Face Recognition", CVPR 2022; `tiandunx/FFC`.
    Deviations: a linear projection of frozen embeddings is trained; the comparison's loss replaces the authors' (AM or
    ArcFace, s = 32); a batch of B instances comes with B / 2 pairs drawn in the network instead of by a second loader;
    the pool is not rolled back between the halves of a step.

    Args:
        share: of the identities that the pool holds, Q / K in (0, 1]; the authors suggest 0.01 or less for millions.
        least: Q is at least this, or K if that is less.
    """

    def __init__(self, share: float = 0.1, least: int = 256, momentum: float = 0.99):
        if not (0 < share <= 1 and least >= 1 and 0 <= momentum < 1):
            raise ValueError(f"got share {share}, least {least}, momentum {momentum}; expected (0, 1], >= 1, [0, 1)")
        self.share, self.least, self.momentum = share, least, momentum

    def fit(self, task: BaselineTask) -> Predictor:
        refuse_lengths_and_rows(task.loss)
        rows_ND, labels_N = unit_rows(task.train)
        slots = min(task.n_identities, max(self.least, round(self.share * task.n_identities)))
        network = F2CNetwork(
            rows_ND, labels_N, slots, task.loss, task.optimizer, self.momentum, task.precision, task.generator()
        )
        task.train_network(network, None, 0)
        with torch.no_grad():
            projected = torch.cat([network.project(block) for block in torch.split(rows_ND, 4096)])
            total_KD = torch.zeros(task.n_identities, rows_ND.shape[1]).index_add_(0, labels_N, projected)
        means_KD = torch.from_numpy(normalise_rows(np.asarray(total_KD)))
        weight_DD = network.head.weight_CD.detach()
        parameters = weight_DD.numel() + means_KD.numel()
        return ByScore(lambda x_BD: F.normalize(x_BD @ weight_DD.T) @ means_KD.T, task.n_identities, parameters)
