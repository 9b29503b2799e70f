# SPDX-License-Identifier: MIT
"""What a classification loss states: per-sample values from the head's outputs, nothing else.

Axes: B batch, C classes of one sub-network. A cosine is in [-1, 1], an angle in radians, a scale has no dimension.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClassificationLoss(nn.Module, ABC):
    """Base of all losses on a head's outputs: no weights, no reduction, no optimiser.

    Attributes:
        unit_rows: whether the head divides its class rows by their length, so that outputs are cosines (the
            default), or uses them as they are.
    """

    unit_rows: bool = True

    @abstractmethod
    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        """Loss of each sample.

        Args:
            cosine_BC: (B, C) outputs of the head; not changed.
            target_B: (B,) int64 true class in [0, C).

        Returns:
            (B,) float32, finite for finite outputs.
        """


class MarginLoss(ClassificationLoss):
    """Cross-entropy over scaled cosines in which only the logit of the true class is special.

    A sub-class states `scale` and `target_logit`, and gets the fused path of `lightning_modules.fused`: value and
    gradient of everything else are shared, the derivative of `target_logit` comes from autograd on B numbers.

    Attributes:
        scale: s, the factor of the other classes' cosines.
    """

    scale: float

    @abstractmethod
    def target_logit(self, cosine_B: Tensor) -> Tensor:
        """Logit of the true class.

        Args:
            cosine_B: (B,) float32 cosine between sample and true class row, rounding may carry it past +-1.

        Returns:
            (B,) float32 logit; its derivative must be finite for every cosine in [-1, 1].
        """

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        """The plain formulation, the reference of the fused one: see `ClassificationLoss.forward`."""
        cosine_BC = cosine_BC.float() if cosine_BC.dtype.itemsize < 4 else cosine_BC  # 16 bits cannot hold 1 - 1e-4
        column_B1 = target_B[:, None]
        logit_B1 = self.target_logit(cosine_BC.gather(1, column_B1).squeeze(1))[:, None]
        return F.cross_entropy((self.scale * cosine_BC).scatter(1, column_B1, logit_B1), target_B, reduction="none")


def sine_from_cosine(cosine: Tensor) -> Tensor:
    """sin(theta) >= sqrt(eps) from cos(theta), with a derivative that stays finite at cos = +-1.

    (1 - c)(1 + c) keeps the digits that 1 - c^2 loses near 1. The slope of acos is infinite at +-1; the floor, one
    rounding step of float32 (theta = 3.5e-4), bounds it there and is active nowhere else.

    Args:
        cosine: any shape, float32 or float64.
    """
    eps = torch.finfo(torch.float32).eps
    return ((1 - cosine) * (1 + cosine)).clamp_min(eps).sqrt()
