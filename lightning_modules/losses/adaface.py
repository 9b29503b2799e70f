# SPDX-License-Identifier: MIT
"""AdaFace: the margin adapts to the length of the embedding (Kim, Jain & Liu, CVPR 2022, eq. 12 to 14)."""

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss, sine_from_cosine

SHORTEST, LONGEST = 1e-3, 100.0  # lengths are clipped to this range, as in the published code


class AdaFace(MarginLoss):
    """Target logit s (cos(theta + g_angle) - g_add), g_angle = -margin q, g_add = margin (1 + q).

    q in [-1, 1] stands for image quality: q = clip(h (length - mean) / (std + eps), -1, 1), where length is that of
    the embedding before normalisation, mean and std are running statistics over batches and eps = 1e-3. Long
    embeddings (q > 0) get a margin that stresses hard samples, short ones (q < 0) one that spares them; q = -1 is
    ArcFace, q = 0 CosFace, q = 1 a negative angular margin.

    Needs embeddings that are not normalised: `for_lengths` makes the loss of a batch and, in training mode, updates
    mean and std. On normalised data the lengths say nothing. Unbound, as where lengths are not known, q = 0.

    Angle and edges: float32, exact gradient. theta + g_angle is clipped to [0, pi], slope 0 beyond, as published; the
    published code also clips cosines to 1 - 1e-3, which takes the gradient from all samples within 2.6 degrees of their
    row (all of them, where rows start at class means of one image), and which is left out. The slope at theta = 0 is
    bounded as in `ArcFace`. mean and std start at 20 and 100, as in the code, and are saved with the training state;
    identification does not need them.

    Defaults: `mk-minchul/AdaFace` head.py and README: s = 64, m = 0.4, h = 0.333, momentum t_alpha = 0.01 (the class
    default of the code is 1.0, statistics of one batch).

    Args:
        scale: s, without dimension.
        margin: m, radians in the angle and without dimension in the cosine, in [0, 1).
        concentration: h, width of the quality scale; at 0.333 quality is clipped 3 standard deviations off.
        momentum: share of a batch in the running statistics, in (0, 1].
    """

    needs_lengths = True
    needs_raw_embeddings = True
    mean: Tensor
    std: Tensor

    def __init__(self, scale: float = 64.0, margin: float = 0.4, concentration: float = 0.333, momentum: float = 0.01):
        super().__init__()
        if not (scale > 0 and 0 <= margin < 1 and concentration > 0 and 0 < momentum <= 1):
            raise ValueError(
                f"got scale {scale}, margin {margin}, concentration {concentration}, momentum {momentum}; expected "
                "scale > 0, 0 <= margin < 1, concentration > 0, 0 < momentum <= 1"
            )
        self.scale, self.margin, self.concentration, self.momentum = scale, margin, concentration, momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    @torch.no_grad()
    def for_lengths(self, embedding_length_B: Tensor, row_length_C: Tensor | None = None) -> "_QualityMargin":
        """The loss of a batch of such embeddings; in training mode their mean and standard deviation are learned."""
        length_B = embedding_length_B.float().clamp(SHORTEST, LONGEST)
        if self.training and len(length_B) > 1:
            self.mean.lerp_(length_B.mean(), self.momentum)
            self.std.lerp_(length_B.std(), self.momentum)
        quality_B = (self.concentration * (length_B - self.mean) / (self.std + 1e-3)).clamp(-1, 1)
        return _QualityMargin(self.scale, self.margin, quality_B)

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        """s (cos(theta) - margin), that of average quality; see `MarginLoss`."""
        return self.scale * (cosine_B - self.margin)


class _QualityMargin(MarginLoss):
    """AdaFace's margin for samples of known quality q in [-1, 1]."""

    def __init__(self, scale: float, margin: float, quality_B: Tensor):
        super().__init__()
        self.scale, self.margin, self.quality_B = scale, margin, quality_B

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        shift_B = -self.margin * self.quality_B
        shifted_B = cosine_B * torch.cos(shift_B) - sine_from_cosine(cosine_B) * torch.sin(shift_B)
        # theta + shift < 0 and > pi, in cosines
        shifted_B = torch.where((shift_B < 0) & (cosine_B > torch.cos(shift_B)), 1.0 + 0 * cosine_B, shifted_B)
        shifted_B = torch.where((shift_B > 0) & (cosine_B < -torch.cos(shift_B)), -1.0 + 0 * cosine_B, shifted_B)
        return self.scale * (shifted_B - self.margin * (1 + self.quality_B))
