# SPDX-License-Identifier: MIT
"""HF-Softmax. Axes: B batch, C classes, A active classes of a step, D embedding dimension."""

from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Infeasible, Predictor
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.heads.linear import LinearHead
from lightning_modules.indexes.faiss_search import add_in_order
from lightning_modules.initialisers import starting_rows
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.base import ClassificationLoss, MarginLoss
from lightning_modules.subnetwork import SubNetwork

LINKS, BREADTH = 16, 100  # M and ef of the graph, as in the authors' HNSW sampler


class ActiveClassHead(LinearHead):
    """A head whose training steps see the classes of the batch and `negatives` others that are hard for it.

    After `yl-1993/hfsoftmax`: for each sample its negatives / B + 1 nearest class rows by an approximate index; the
    union over the batch without the true classes, in random order, cut to `negatives` and filled up with random
    classes. Rows that are not chosen get no gradient (Adam still moves them by its momentum). With negatives >= C - 1
    it is the full head.

    Args:
        negatives: classes beside those of the batch, at least 1.
        rebuild: steps between two builds of the index over the current rows.
    """

    def __init__(self, rows_CD: Tensor, negatives: int, rebuild: int, generator: torch.Generator, **options: Any):
        super().__init__(rows_CD, **options)
        self.negatives, self.rebuild, self.generator, self.steps = negatives, rebuild, generator, 0

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        if self.steps % self.rebuild == 0:
            self.index = build_index(self.rows().detach().cpu().numpy())
        self.steps += 1
        active_A = self.active(embedding_BD.detach(), target_B).to(target_B.device)
        place_B = torch.searchsorted(active_A, target_B)
        if isinstance(loss, MarginLoss):
            options = self.precision, self.max_logits_bytes
            return fused_margin_softmax(embedding_BD, self.weight_CD[active_A], place_B, loss, *options)
        with matmul_precision(self.precision):
            return loss(embedding_BD @ self.rows()[active_A].T, place_B)

    def active(self, embedding_BD: Tensor, target_B: Tensor) -> Tensor:
        """The classes of a step, ascending: (A,) int64."""
        classes, positive_P = len(self.weight_CD), target_B.unique().cpu()
        wanted = min(self.negatives, classes - len(positive_P))
        chosen = torch.zeros(classes, dtype=torch.bool)
        chosen[positive_P] = True
        near = self.negatives // len(target_B) + 1
        _, found = self.index.search(np.ascontiguousarray(embedding_BD.cpu().numpy()), min(near + 1, classes))
        found = torch.from_numpy(found).flatten().unique()
        candidates = found[(found >= 0) & ~chosen[found.clamp_min(0)]]
        order = torch.randperm(len(candidates), generator=self.generator)[:wanted]
        chosen[candidates[order]] = True
        rest = (~chosen).nonzero()[:, 0]
        more = torch.randperm(len(rest), generator=self.generator)[: wanted - len(order)]
        chosen[rest[more]] = True
        return chosen.nonzero()[:, 0]


def build_index(rows_CD: np.ndarray) -> faiss.IndexHNSWFlat:
    """A navigable small-world graph (Malkov & Yashunin, 2018) over class rows, searched by inner product."""
    index = faiss.IndexHNSWFlat(rows_CD.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = index.hnsw.efSearch = BREADTH
    add_in_order(index, rows_CD)
    return index


class HFSoftmax(Baseline):
    """One head over all identities; each step competes only with classes whose rows are close to the batch.

    Zhang, Yang, Yan & Lin, "Accelerated Training for Massive Classification via Dynamic Class Selection", AAAI 2018.
    The paper's hashing forest is an HNSW graph here, as in one of the authors' own samplers; their adaptive schedule of
    sizes and rebuilds is a constant.

    Args:
        share: of the identities that are negatives of a step, in (0, 1].
        rebuild: steps between two builds of the index; 100 in the authors' code.
    """

    def __init__(self, share: float = 0.1, rebuild: int = 100):
        if not (0 < share <= 1 and rebuild >= 1):
            raise ValueError(f"got share = {share}, rebuild = {rebuild}; expected 0 < share <= 1 and rebuild >= 1")
        self.share, self.rebuild = share, rebuild

    def fit(self, task: BaselineTask) -> Predictor:
        refuse_lengths_and_rows(task.loss)
        generator = task.generator()
        rows_KD = starting_rows(task.init.fit(task.train), torch.from_numpy(task.class_means_KD), generator)
        negatives = max(1, round(self.share * task.n_identities))
        head = ActiveClassHead(
            rows_KD, negatives, self.rebuild, generator, unit_rows=task.loss.unit_rows, precision=task.precision,
            max_logits_bytes=task.max_logits_bytes,
        )  # fmt: skip
        task.train_network(SubNetwork(head, task.loss, task.optimizer), None, 0)
        rows_KD = head.rows().detach()
        return ByScore(lambda probes_BD: probes_BD @ rows_KD.T, task.n_identities, rows_KD.numel())


def refuse_lengths_and_rows(loss: ClassificationLoss) -> None:
    """Raises Infeasible for losses that read the lengths of all rows, or have several rows per class."""
    if loss.needs_lengths or loss.rows_per_class > 1:
        raise Infeasible(f"{type(loss).__name__} needs the lengths of all class rows, or several rows per class")
