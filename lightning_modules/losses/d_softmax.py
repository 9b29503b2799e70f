# SPDX-License-Identifier: MIT
"""D-Softmax: softmax dissected into an intra-class and an inter-class term (He et al., AAAI 2020)."""

from torch import Tensor
from torch.nn import functional as F

from lightning_modules.losses.base import MarginLoss


class DSoftmax(MarginLoss):
    """log(1 + e^(s (d - cos_y))) + log(1 + sum over j != y of e^(s cos_j)), two terms that do not see each other.

    "Softmax Dissection: Towards Understanding Intra- and Inter-class Objective for Embedding Learning", arXiv
    1908.01281. The intra-class term pulls until cos_y = d, whatever the others do; the inter-class term pushes the
    others below 0 wherever the true class is. The paper's sampled variants are not part of the loss.

    The inter-class term is cross-entropy with a true logit of 0, the intra-class term a penalty on cos_y, so that the
    fused path applies. The slope by cos_y is between -s (far) and 0, -s / 2 at cos_y = d. The defaults are from the
    literature, not checked against the paper's tables.

    Args:
        stop: d, the cosine at which the pull on the true class has halved, in (-1, 1].
    """

    def __init__(self, scale: float = 32.0, stop: float = 0.9):
        super().__init__()
        if not (scale > 0 and -1 < stop <= 1):
            raise ValueError(f"got scale {scale}, stop {stop}; expected scale > 0 and -1 < stop <= 1")
        self.scale, self.stop = scale, stop

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        return 0 * cosine_B

    def penalty(self, cosine_B: Tensor) -> Tensor:
        return F.softplus(self.scale * (self.stop - cosine_B))
