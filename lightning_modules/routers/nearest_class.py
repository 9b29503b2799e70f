# SPDX-License-Identifier: MIT
"""Routing by the nearest class mean, or the p nearest: K similarities per probe."""

import functools

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.routers.base import Router
from lightning_modules.scores import ProbeScores

INT64 = 7  # the number of the type in ONNX
EXPORTED_P = 64  # an exported graph looks into each candidate cluster one after another


class NearestClass(Router):
    """The clusters of the p class means most similar to the probe; p = 1 is the paper's proposal (representative (c)).

    CC = argmax_i Sim(F(x), mean_i) over all K class means; the cluster that contains CC is the answer.

    Args:
        p: class means looked at, at least 1; their clusters are the candidates.
        most_clusters: clusters named at most, those of the most similar class means; None names all that are found.
    """

    def __init__(self, p: int = 1, most_clusters: int | None = None):
        if p < 1 or (most_clusters is not None and most_clusters < 1):
            raise ValueError(f"got p = {p}, most_clusters = {most_clusters}; expected at least 1 of each")
        self.p, self.most_clusters = p, most_clusters

    @property
    def quick(self) -> bool:  # type: ignore[override]
        return self.p == 1

    def route(self, scores: ProbeScores) -> Tensor:
        """Clusters of the p nearest class means, each once, in order of similarity; see `Router.route`."""
        _, identity_BP = scores.nearest_classes(self.p)
        clusters_BP = scores.cluster_of_K[identity_BP]
        if clusters_BP.shape[1] == 1:
            return clusters_BP
        return first_occurrences(clusters_BP, scores.partition.n_clusters)[:, : self.most_clusters]

    def route_onnx(self, scores: OnnxScores) -> list[str]:
        """The same of ONNX values, each cluster as often as it is found; see `Router.route_onnx`."""
        p = min(self.p, len(scores.class_means_KD))
        if p > EXPORTED_P:
            raise InputError(f"router NearestClass with p = {p}", f"at most {EXPORTED_P} to export", "lower p")
        _, identity_BP = scores.nearest_classes(max(p, 2))  # two are looked for anyway, for the runner-up
        clusters = [scores.cluster_of(scores.column(identity_BP, place)) for place in range(p)]
        if self.most_clusters is None or self.most_clusters >= p:
            return clusters
        # What would be one cluster too many, and what is there already, becomes the first once more.
        chosen, count_B = clusters[:1], scores.constant(np.int64(1))
        for place in range(1, p):
            same = [scores.add("Equal", clusters[place], earlier) for earlier in clusters[:place]]
            new_B = scores.add("Not", functools.reduce(lambda one, other: scores.add("Or", one, other), same))
            count_B = scores.add("Add", count_B, scores.add("Cast", new_B, to=INT64))
            few_B = scores.add("LessOrEqual", count_B, scores.constant(np.int64(self.most_clusters)))
            taken_B = scores.add("And", new_B, few_B)
            chosen.append(scores.add("Where", taken_B, clusters[place], clusters[0]))
        return chosen


def first_occurrences(clusters_BP: Tensor, n_clusters: int) -> Tensor:
    """Each row of int64 in [-1, M) without repetitions, order kept, cut to the longest and filled up with -1: (B, Q).

    >>> first_occurrences(torch.tensor([[2, 2, 0], [1, 1, 1]]), 3)
    tensor([[ 2,  0],
            [ 1, -1]])
    """
    b, p = clusters_BP.shape
    # Place of the first occurrence of each cluster; p means "never" and sorts behind all places.
    place_BM = torch.full((b, n_clusters), p, device=clusters_BP.device)
    places_BP = torch.arange(p, device=clusters_BP.device).expand(b, p)
    place_BM.scatter_reduce_(1, clusters_BP, places_BP, "amin")
    place_BM, cluster_BM = place_BM.sort(dim=1, stable=True)
    width = int((place_BM < p).sum(1).max()) if b else 1
    return cluster_BM[:, :width].masked_fill(place_BM[:, :width] == p, -1)
