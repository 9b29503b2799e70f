# SPDX-License-Identifier: MIT
"""CosFace: additive cosine margin (Wang et al., "CosFace", CVPR 2018, eq. 4; AM-Softmax is the same function)."""

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss


class CosFace(MarginLoss):
    """Target logit s (cos(theta) - margin), slope s everywhere.

    Args:
        margin: m on the cosine, in [0, 1). Scale and margin are the paper's.
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.35):
        super().__init__()
        if not (scale > 0 and 0 <= margin < 1):
            raise ValueError(f"got scale {scale}, margin {margin}; expected scale > 0 and 0 <= margin < 1")
        self.scale, self.margin = scale, margin

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        return self.scale * (cosine_B - self.margin)

    def target_slope(self, cosine_B: Tensor) -> Tensor:
        return torch.full_like(cosine_B, self.scale)
