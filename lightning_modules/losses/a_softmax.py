# SPDX-License-Identifier: MIT
"""A-Softmax: multiplicative angular margin (Liu et al., "SphereFace", CVPR 2017, eq. 6 to 8)."""

import math

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss, sine_from_cosine


class ASoftmax(MarginLoss):
    """Target logit s (annealing cos(theta) + psi(theta)) / (annealing + 1), with its exact gradient.

    psi(theta) = (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m]: cos(m theta) made monotone, from 1
    at theta = 0 down to 1 - 2 m at theta = pi for a whole m. Its derivative by the cosine is
    (-1)^k m sin(m theta) / sin(theta): m^2 at theta = 0 (and at pi, for a whole m), 0 at each k pi / m. For a
    fractional m the derivative is infinite at theta = pi; there sin(theta) is taken as sqrt(float32 eps) = 3.5e-4.

    In the paper s is the embedding's length. It is 1 on unit embeddings, where the softmax over 1,000 classes could not
    exceed 0.8 %; a fixed scale replaces it, as in all later work.

    Defaults: m = 4 is the paper's. annealing is lambda of its training recipe (appendix; published Caffe code), which
    falls from 1,000 to 5; here it is a constant. The modern form is scale = 30, m = 1.7, annealing = 0 (opensphere's
    SphereFace, configs/loss/sphereface.yaml), there with the gradient of s cos(theta), here with that of its value.

    Args:
        margin: m, the factor of the angle, at least 1; 1 is NormFace.
        annealing: lambda, weight of the plain cosine, at least 0.
    """

    def __init__(self, scale: float = 30.0, margin: float = 4.0, annealing: float = 5.0):
        super().__init__()
        if not (scale > 0 and margin >= 1 and annealing >= 0):
            got = f"got scale {scale}, margin {margin}, annealing {annealing}"
            raise ValueError(f"{got}; expected scale > 0, margin >= 1, annealing >= 0")
        self.scale, self.margin, self.annealing = scale, margin, annealing

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        return self.scale * (self.annealing * cosine_B + psi(cosine_B, self.margin)) / (self.annealing + 1)


def psi(cosine: Tensor, margin: float) -> Tensor:
    """psi(theta) of `ASoftmax` for cosines of any shape; differentiable once, with a finite slope on [-1, 1].

    Args:
        margin: m, factor of the angle.
    """
    with torch.no_grad():
        # sin(theta) >= 3.5e-4 keeps theta off 0 and pi, where sin(m theta) / sin(theta) would be 0 / 0.
        sine = sine_from_cosine(cosine.clamp(-1, 1))
        angle = torch.atan2(sine, cosine)
        k = (angle * (margin / math.pi)).floor().clamp_max(math.ceil(margin) - 1)
        sign = 1 - 2 * (k % 2)
        value = sign * torch.cos(margin * angle) - 2 * k
        slope = sign * margin * torch.sin(margin * angle) / sine
    return value + slope * (cosine - cosine.detach())
