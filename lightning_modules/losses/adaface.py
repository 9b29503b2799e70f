# SPDX-License-Identifier: MIT
"""AdaFace: the margin adapts to the length of the embedding (Kim, Jain & Liu, CVPR 2022, eq. 12 to 14)."""

import copy

import torch
from torch import Tensor

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.losses.base import MarginLoss, sine_from_cosine


class AdaFace(MarginLoss):
    """Target logit s (cos(theta + g_angle) - g_add), g_angle = -margin q, g_add = margin (1 + q).

    q in [-1, 1] stands for image quality: q = clip(h (length - mean) / (std + eps), -1, 1) with the length of the
    embedding before normalisation and eps = 1e-3. Long embeddings (q > 0) get a margin that stresses hard samples,
    short ones (q < 0) one that spares them; q = -1 is ArcFace, q = 0 CosFace, q = 1 a negative angular margin.

    Rule: mean and std are those of all training samples of the head, found by `fit`. The paper follows them by running
    means over batches, because its network changes the lengths; embeddings are frozen here. Before `fit` they are 20
    and 100, the published start. For the same reason lengths are not clipped to the published range of [1e-3, 100].

    The embeddings must not be normalised. `for_lengths` makes the loss of a batch; without it q = 0.

    Angle and edges: float32, exact gradient. theta + g_angle is clipped to [0, pi], slope 0 beyond, as published. The
    published code also clips cosines to 1 - 1e-3. That takes the gradient from all samples within 2.6 degrees of their
    row (all of them, if rows start at class means of one image), and is left out. The slope at theta = 0 is bounded as
    in `ArcFace`. Defaults: `mk-minchul/AdaFace` head.py and README.

    Args:
        margin: m, radians in the angle and without dimension in the cosine, in [0, 1).
        concentration: h, width of the quality scale; at 0.333 quality is clipped 3 standard deviations off.
    """

    needs_lengths = True
    needs_raw_embeddings = True
    mean: Tensor
    std: Tensor

    def __init__(self, scale: float = 64.0, margin: float = 0.4, concentration: float = 0.333):
        super().__init__()
        if not (scale > 0 and 0 <= margin < 1 and concentration > 0):
            got = f"got scale {scale}, margin {margin}, concentration {concentration}"
            raise ValueError(f"{got}; expected scale > 0, 0 <= margin < 1, concentration > 0")
        self.scale, self.margin, self.concentration = scale, margin, concentration
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def fit(self, samples: TrainingSamples) -> "AdaFace":
        length_N, fitted = samples.lengths().astype("float64"), copy.deepcopy(self)
        fitted.mean.fill_(length_N.mean())
        fitted.std.fill_(length_N.std())
        return fitted

    def for_lengths(self, embedding_length_B: Tensor, row_length_C: Tensor | None = None) -> "_QualityMargin":
        quality_B = self.concentration * (embedding_length_B.float() - self.mean) / (self.std + 1e-3)
        return _QualityMargin(self.scale, self.margin, quality_B.clamp(-1, 1))

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        """s (cos(theta) - margin), that of average quality; see `MarginLoss`."""
        return self.scale * (cosine_B - self.margin)


class _QualityMargin(MarginLoss):
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
