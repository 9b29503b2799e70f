# SPDX-License-Identifier: MIT
"""Routing by the sub-networks themselves: all M heads are evaluated."""

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.routers.base import Router
from lightning_modules.scores import ProbeScores


class MaxOutput(Router):
    """Max-max: the cluster whose sub-network has the highest output (representative (b) of the paper).

    The paper leaves open which output. Cosines of different sub-networks can be compared; softmax probabilities over
    heads of different sizes cannot, strictly.

    Args:
        score: "cosine", the head's output as it is, or "probability", its softmax within the sub-network (ranked by its
            log-odds, which do not saturate).
        scale: factor of the outputs under the softmax, without dimension; only used by "probability".
    """

    needs_heads = True

    def __init__(self, score: str = "cosine", scale: float = 64.0):
        if score not in ("cosine", "probability"):
            raise ValueError(f"got score {score!r}; expected 'cosine' or 'probability'")
        self.score, self.scale = score, scale

    def route(self, scores: ProbeScores) -> Tensor:
        if self.score == "cosine":
            return scores.head_best[0].argmax(1, keepdim=True)
        return scores.head_log_odds(self.scale).argmax(1, keepdim=True)

    def route_onnx(self, scores: OnnxScores) -> str:
        if self.score != "cosine":
            raise InputError(f"router MaxOutput by {self.score}", "score=cosine to export", "choose it")
        return scores.lookup(scores.cluster_of_S, scores.argmax(scores.output_BS))
