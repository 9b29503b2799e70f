# SPDX-License-Identifier: MIT
"""KNN as the paper uses the word: the nearest class mean, no trained head."""

from torch import Tensor

from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.scores import ProbeScores


class NearestMean(Decision):
    """The identity whose class mean has the highest cosine with the probe; the score is that cosine.

    Looks at all K identities: routing does not matter.
    """

    needs_heads = False
    needs_route = False
    quick = True

    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        return self.rank(scores, clusters_BP, 1).best

    def decide_onnx(self, scores: OnnxScores, cluster: str | None) -> tuple[str, str, str]:
        cosine_BP, identity_BP = scores.nearest_classes(2)  # two are looked for anyway, for the runner-up
        identity_B = scores.column(identity_BP, 0)
        return identity_B, scores.column(cosine_BP, 0), scores.cluster_of(identity_B)

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        cosine_BT, identity_BT = scores.nearest_classes(most)
        return Ranked(identity_BT, cosine_BT, scores.cluster_of_K[identity_BT])
