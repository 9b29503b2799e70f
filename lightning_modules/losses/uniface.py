# SPDX-License-Identifier: MIT
"""UniFace: unified cross-entropy, one threshold for all classes (Zhou et al., "UniFace", ICCV 2023)."""

import math

from torch import Tensor
from torch.nn import functional as F

from lightning_modules.losses.base import ClassificationLoss


class UniFace(ClassificationLoss):
    """log(1 + e^(b - s (cos_y - m))) + weight sum over j != y of log(1 + e^(s cos_j - b)): a binary loss per class.

    Each class decides for itself whether the sample is its own, with one bias b for all: a pair is positive where
    s cos > b, so that cos = b / s is a threshold that means the same for every class and, with one b, for every
    sub-network. Softmax, whose denominator is another for every sample, gives none. (UCE loss of the paper with the
    cosine margin of its code, `CVI-SZU/UniFace` head.py.)

    The bias. The paper learns it, starting at log(10 N). Here it is a constant: a loss holds no weights, and only a
    constant is the same in sub-networks that never talk to each other. `bias=None` takes log(10 C) of the C classes of
    the head, at which an untrained head (cosines near 0) expects a tenth of a positive among its classes:
    C sigmoid(-b) = 0.1. Sub-networks of different size then have thresholds that differ by log(C1 / C2) / s, 0.01 in
    the cosine at C1 = 2 C2; state a number, log(10 N) of all N, to have one threshold.

    Edges: log(1 + e^z) is computed without overflow, so that the code's clamp to [-s, s], which cuts off gradients of
    the hardest pairs, is not needed. Slopes are bounded by s. The B x C outputs go through autograd, not through the
    fused path.

    Defaults: s = 64, m = 0.4, weight = 1 are the code's.

    Args:
        scale: s, without dimension.
        margin: m on the cosine of the true class, in [0, 1).
        weight: l, factor of the negative terms, above 0.
        bias: b on the scaled cosine; None for log(10 C).
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.4, weight: float = 1.0, bias: float | None = None):
        super().__init__()
        if not (scale > 0 and 0 <= margin < 1 and weight > 0):
            raise ValueError(
                f"got scale {scale}, margin {margin}, weight {weight}; expected scale > 0, 0 <= margin < 1, weight > 0"
            )
        self.scale, self.margin, self.weight, self.bias = scale, margin, weight, bias

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        """(B,) sum of C binary losses; see `ClassificationLoss.forward`."""
        cosine_BC = cosine_BC.float() if cosine_BC.dtype.itemsize < 4 else cosine_BC
        bias = math.log(10 * cosine_BC.shape[1]) if self.bias is None else self.bias
        column_B1 = target_B[:, None]
        negative_BC = F.softplus(self.scale * cosine_BC - bias).scatter(1, column_B1, 0)
        cosine_B = cosine_BC.gather(1, column_B1).squeeze(1)
        return F.softplus(bias - self.scale * (cosine_B - self.margin)) + self.weight * negative_BC.sum(1)
