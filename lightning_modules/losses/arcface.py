# SPDX-License-Identifier: MIT
"""ArcFace: additive angular margin (Deng et al., "ArcFace", CVPR 2019, eq. 3)."""

import math

import torch
from torch import Tensor

from lightning_modules.losses.base import SMALLEST_SINE_SQUARE, MarginLoss, sine_from_cosine


class ArcFace(MarginLoss):
    """Target logit s cos(theta + margin), with its exact gradient.

    cos(theta + m) = cos(theta) cos(m) - sin(theta) sin(m), in float32. Once theta > pi - margin, where cos(theta + m)
    would rise again, the target logit is s (cos(theta) - margin sin(margin)): lower than anything before, slope s.

    The derivative by the cosine, s (cos m + sin m cos(theta) / sin(theta)), is infinite at theta = 0; there
    sin(theta) is taken as sqrt(float32 eps) = 3.5e-4, and the gradient by embedding and class row stays finite.

    "ArcFace" names three functions in public code. This is neither the value-only margin of insightface (the gradient
    of s cos(theta): see `ArcFaceValueOnly`) nor the clipping of theta + m at pi.

    Args:
        margin: m in radians, in [0, pi/2). Scale and margin are the paper's.
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.5):
        super().__init__()
        if not (scale > 0 and 0 <= margin < math.pi / 2):
            raise ValueError(f"got scale {scale}, margin {margin}; expected scale > 0 and 0 <= margin < pi/2 radians")
        self.scale, self.margin = scale, margin

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        cosine_B = cosine_B.clamp(-1, 1) if not cosine_B.requires_grad else _clamp_keeping_slope(cosine_B)
        with_margin_B = cosine_B * math.cos(self.margin) - sine_from_cosine(cosine_B) * math.sin(self.margin)
        past_B = cosine_B < -math.cos(self.margin)
        return self.scale * torch.where(past_B, cosine_B - self.margin * math.sin(self.margin), with_margin_B)

    def target_slope(self, cosine_B: Tensor) -> Tensor:
        square_B = (1 - cosine_B) * (1 + cosine_B)
        # Where the floor of `sine_from_cosine` holds, the sine does not change with the cosine.
        cotangent_B = torch.where(square_B > SMALLEST_SINE_SQUARE, cosine_B * square_B.rsqrt(), 0.0)
        with_margin_B = (self.scale * math.cos(self.margin)) + cotangent_B * (self.scale * math.sin(self.margin))
        return torch.where(cosine_B < -math.cos(self.margin), self.scale, with_margin_B)


class ArcFaceValueOnly(ArcFace):
    """ArcFace as insightface computes it: the margin changes the value, the gradient is that of s cos(theta).

    insightface's `losses.py` takes arccos and cos under no_grad and has no guard past pi - margin; so has this.
    """

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        with torch.no_grad():
            clamped_B = cosine_B.clamp(-1, 1)
            angle_B = torch.acos(clamped_B)
            shift_B = torch.cos(angle_B + self.margin) - cosine_B
        return self.scale * (cosine_B + shift_B)

    def target_slope(self, cosine_B: Tensor) -> Tensor:
        return torch.full_like(cosine_B, self.scale)


def _clamp_keeping_slope(cosine_B: Tensor) -> Tensor:
    # Rounding carries a cosine past 1 by 1e-7; a plain clamp would then cut the gradient off.
    return cosine_B + (cosine_B.detach().clamp(-1, 1) - cosine_B.detach())
