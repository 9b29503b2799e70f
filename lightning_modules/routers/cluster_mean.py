# SPDX-License-Identifier: MIT
"""Routing by the mean embedding of each cluster: M similarities per probe."""

from torch import Tensor

from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.routers.base import Router
from lightning_modules.scores import ProbeScores


class ClusterMean(Router):
    """The cluster whose mean embedding has the highest cosine with the probe (representative (a) of the paper)."""

    def route(self, scores: ProbeScores) -> Tensor:
        return scores.centre_cosine_BM.argmax(1, keepdim=True)

    def route_onnx(self, scores: OnnxScores) -> str:
        return scores.argmax(scores.centre_cosine_BM)
