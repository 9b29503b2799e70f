# SPDX-License-Identifier: MIT
"""UniFace: unified cross-entropy, one threshold for all classes (Zhou et al., "UniFace", ICCV 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.losses.base import ClassificationLoss


class UniFace(ClassificationLoss):
    """log(1 + e^(b - s (cos_y - m))) + weight sum over j != y of log(1 + e^(s cos_j - b)): a binary loss per class.

    Each class decides for itself whether the sample is its own, with one bias b for all: a pair is positive where
    s cos > b, so that cos = b / s is a threshold that means the same for every class and, with one b, for every
    sub-network. Softmax, whose denominator is another for every sample, gives none. (UCE loss of the paper with the
    cosine margin of its code, `CVI-SZU/UniFace` head.py.)

    The bias is trained with the class rows, as in the paper. It starts at log(10 C) for the C classes of the head (the
    paper's start), at which an untrained head expects a tenth of a positive among them: C sigmoid(-b) = 0.1. Each
    sub-network learns a bias of its own. `learn_bias=False` keeps the start: state one number, log(10 N) of all N, to
    have one threshold everywhere.

    Rule: the parameter is b / s less its start, a cosine like the numbers of a row. A step of Adam then moves the
    threshold as far as a row; b itself, about 10, would stay at its start for thousands of steps.

    Edges: log(1 + e^z) does not overflow: the code's clamp to [-s, s], which cuts off gradients of the hardest pairs,
    is not needed. Slopes are bounded by s. The B x C outputs go through autograd. The defaults are the code's.

    Args:
        margin: m on the cosine of the true class, in [0, 1).
        weight: l, factor of the negative terms, above 0.
        bias: b on the scaled cosine to start from; None for log(10 C).
    """

    def __init__(
        self, scale: float = 64.0, margin: float = 0.4, weight: float = 1.0, bias: float | None = None,
        learn_bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        if not (scale > 0 and 0 <= margin < 1 and weight > 0):
            got = f"got scale {scale}, margin {margin}, weight {weight}"
            raise ValueError(f"{got}; expected scale > 0, 0 <= margin < 1, weight > 0")
        self.scale, self.margin, self.weight = scale, margin, weight
        # The distance from the start: C is known with the first batch.
        self.start, self.bias = bias, nn.Parameter(torch.zeros(()), requires_grad=learn_bias)

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        cosine_BC = cosine_BC.float() if cosine_BC.dtype.itemsize < 4 else cosine_BC
        start = math.log(10 * cosine_BC.shape[1]) if self.start is None else self.start
        bias = start + self.scale * self.bias.to(cosine_BC)
        column_B1 = target_B[:, None]
        negative_BC = F.softplus(self.scale * cosine_BC - bias).scatter(1, column_B1, 0)
        cosine_B = cosine_BC.gather(1, column_B1).squeeze(1)
        return F.softplus(bias - self.scale * (cosine_B - self.margin)) + self.weight * negative_BC.sum(1)
