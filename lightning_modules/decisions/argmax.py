# SPDX-License-Identifier: MIT
"""The paper's final decision: the highest output of the sub-network."""

import torch
from torch import Tensor

from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.decisions.inside import best_of, outputs_of, ranked_inside
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.scores import ProbeScores


class Argmax(Decision):
    """The class with the highest head output inside the routed clusters; the score is that output (a cosine)."""

    quick = True

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        found = [scores.best_in_cluster(clusters_B) for clusters_B in clusters_BP.unbind(1)]
        if len(found) == 1:
            return Decided(found[0][1], found[0][0], clusters_BP[:, 0])
        output_BP, identity_BP = (torch.stack(block, 1) for block in zip(*found, strict=True))
        return best_of(output_BP, identity_BP, clusters_BP)

    def decide_onnx(self, scores: OnnxScores, cluster: str) -> tuple[str, str, str]:
        output_B, identity_B = scores.best_in_cluster(cluster)
        return identity_B, output_B, cluster

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:

        def candidates(cluster, which_b):
            for block, output_bC in outputs_of(scores, cluster, which_b):
                yield block, *output_bC.topk(min(most, output_bC.shape[1]), dim=1)

        return ranked_inside(scores, clusters_BP, most, candidates)
