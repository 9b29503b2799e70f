# SPDX-License-Identifier: MIT
"""NormFace: softmax over scaled cosines without a margin (Wang et al., "NormFace", ACM MM 2017, eq. 4)."""

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss


class NormFace(MarginLoss):
    """Target logit s cos(theta).

    Args:
        scale: s, without dimension. The paper learns it; a fixed 30 is what opensphere's CoCo loss uses.
    """

    def __init__(self, scale: float = 30.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"got scale {scale}; expected scale > 0")
        self.scale = scale

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        return self.scale * cosine_B

    def target_slope(self, cosine_B: Tensor) -> Tensor:
        return torch.full_like(cosine_B, self.scale)
