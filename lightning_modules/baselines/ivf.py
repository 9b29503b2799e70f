# SPDX-License-Identifier: MIT
"""Inverted lists over class means: clustering without a trained head. Axes: B probes, K identities, D dimension."""

import faiss
import numpy as np
import torch
from torch import Tensor

from lightning_modules.baselines.base import Baseline, BaselineTask, Infeasible, Predictor


class InvertedLists(Baseline):
    """FAISS's IVFFlat over the class means: m lists, of which a probe looks into the closest few.

    The same two levels as a clustered head, nothing trained but the centres.

    Args:
        probes: lists that a query looks into (nprobe), at least 1; all if there are fewer.
        lists: number of lists (nlist); None takes m.
    """

    def __init__(self, probes: int = 1, lists: int | None = None):
        if probes < 1 or (lists is not None and lists < 1):
            raise ValueError(f"got probes = {probes}, lists = {lists}; expected at least 1")
        self.probes, self.lists = probes, lists

    def fit(self, task: BaselineTask) -> Predictor:
        lists = self.lists or task.n_subnets
        if lists > task.n_identities:
            raise Infeasible(f"{lists} lists for {task.n_identities} identities")
        return _Index(task.class_means_KD, lists, min(self.probes, lists), task.seed)


class _Index(Predictor):
    def __init__(self, means_KD: np.ndarray, lists: int, probes: int, seed: int):
        dim = means_KD.shape[1]
        super().__init__(len(means_KD), means_KD.size + lists * dim)
        self.quantizer = faiss.IndexFlatIP(dim)
        self.index = faiss.IndexIVFFlat(self.quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        self.index.cp.seed = seed + 1
        self.index.cp.spherical = True
        self.index.cp.min_points_per_centroid = 1
        self.index.cp.max_points_per_centroid = len(means_KD)  # FAISS would train on a sample and not say so
        self.index.train(means_KD)
        self.index.add(means_KD)
        self.index.nprobe = probes

    def answer(self, probes_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The highest cosine in the lists looked into; -1 as cosine and identity 0 if they are empty."""
        score_B1, identity_B1 = self.index.search(np.ascontiguousarray(probes_BD.cpu().numpy()), 1)
        identity_B, score_B = torch.from_numpy(identity_B1[:, 0]), torch.from_numpy(score_B1[:, 0])
        return identity_B.clamp_min(0), torch.where(identity_B < 0, -torch.ones_like(score_B), score_B)
