# SPDX-License-Identifier: MIT
"""Routing by the nearest class mean, or the p nearest: K similarities per probe."""

import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.routers.base import Router
from lightning_modules.scores import ProbeScores


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

    def route_onnx(self, scores: OnnxScores) -> str:
        """The cluster of the nearest class mean. Raises InputError: several class means are looked at."""
        if self.p > 1:
            raise InputError(f"router NearestClass with p = {self.p}", "p = 1 to export", "choose router=nearest_class")
        _, identity_BP = scores.nearest_classes(2)  # two are looked for anyway, for the runner-up
        return scores.cluster_of(scores.column(identity_BP, 0))


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
