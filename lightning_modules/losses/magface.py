# SPDX-License-Identifier: MIT
"""MagFace: the longer the embedding, the larger the margin (Meng et al., CVPR 2021, eq. 2 to 4)."""

import copy
import math

import numpy as np
import torch
from torch import Tensor

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.losses.base import MarginLoss, sine_from_cosine


class MagFace(MarginLoss):
    """Target logit s cos(theta + m(a)), a the embedding's length, plus regulariser g(a).

    m(a) = lower_margin + (upper_margin - lower_margin) (a - lower_length) / (upper_length - lower_length) with a
    clipped to [lower_length, upper_length], and g(a) = a / upper_length^2 + 1 / a, which rewards long embeddings and
    is weighted by `length_weight`. Together they make length a measure of quality, by moving the embedding network.

    Embeddings are frozen here: g is a constant for the head, kept so that the loss has the published value, and only
    the margin acts. The embeddings must not be normalised. `for_lengths` makes the loss of a batch; without it all
    lengths are lower_length.

    Rule: bounds that are None become the 1 % and 99 % quantiles of the lengths of the head's training samples. The
    published bounds, 10 and 110, hold the lengths of the authors' network; they are used before `fit`.

    Angle and edges: float32, exact gradient, bounded at theta = 0 as in `ArcFace`. easy_margin=True, the published
    code's choice, drops the margin at cos(theta) <= 0 (the logit jumps there); False is ArcFace's
    s (cos(theta) - m sin(m)) past pi - m. Defaults, but for the bounds: `IrvingMeng/MagFace` run/run.sh.

    Args:
        lower_length, upper_length: l_a and u_a, 0 < lower < upper, in the embeddings' own unit, or None.
        lower_margin, upper_margin: l_m and u_m in radians, 0 <= lower <= upper < pi/2.
        length_weight: lambda_g, at least 0.
    """

    needs_lengths = True
    needs_raw_embeddings = True

    def __init__(
        self, scale: float = 64.0, lower_length: float | None = None, upper_length: float | None = None,
        lower_margin: float = 0.45, upper_margin: float = 0.8, length_weight: float = 35.0, easy_margin: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.given = lower_length, upper_length
        self.lower_length, self.upper_length = lower_length or 10.0, upper_length or 110.0
        given_right = lower_length is None or upper_length is None or lower_length < upper_length
        if not (scale > 0 and given_right and all(x is None or x > 0 for x in self.given) and length_weight >= 0):
            got = f"got scale {scale}, lengths {lower_length} to {upper_length}, length_weight {length_weight}"
            wanted = "scale > 0, 0 < lower_length < upper_length or None, length_weight >= 0"
            raise ValueError(f"{got}; expected {wanted}")
        if not 0 <= lower_margin <= upper_margin < math.pi / 2:
            raise ValueError(f"got margins {lower_margin} to {upper_margin}; expected 0 <= lower <= upper < pi/2")
        self.scale, self.lower_margin, self.upper_margin = scale, lower_margin, upper_margin
        self.length_weight, self.easy_margin = length_weight, easy_margin
        self._length_B: Tensor | None = None

    def fit(self, samples: TrainingSamples) -> "MagFace":
        fitted = copy.copy(self)
        found = np.quantile(samples.lengths().astype(np.float64), [0.01, 0.99]).tolist()
        lower, upper = (found[i] if one is None else one for i, one in enumerate(self.given))
        fitted.lower_length, fitted.upper_length = lower, max(upper, 1.001 * lower)  # lengths may be equal
        return fitted

    def for_lengths(self, embedding_length_B: Tensor, row_length_C: Tensor | None = None) -> "MagFace":
        bound = copy.copy(self)
        bound._length_B = embedding_length_B.float().clamp(self.lower_length, self.upper_length)
        return bound

    def _length(self, cosine_B: Tensor) -> Tensor:
        return torch.full_like(cosine_B, self.lower_length) if self._length_B is None else self._length_B

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        share_B = (self._length(cosine_B.detach()) - self.lower_length) / (self.upper_length - self.lower_length)
        margin_B = self.lower_margin + (self.upper_margin - self.lower_margin) * share_B
        sine_B = sine_from_cosine(cosine_B)
        with_margin_B = cosine_B * torch.cos(margin_B) - sine_B * torch.sin(margin_B)
        if self.easy_margin:
            return self.scale * torch.where(cosine_B > 0, with_margin_B, cosine_B)
        past_B = cosine_B < -torch.cos(margin_B)
        return self.scale * torch.where(past_B, cosine_B - margin_B * torch.sin(margin_B), with_margin_B)

    def penalty(self, cosine_B: Tensor) -> Tensor:
        length_B = self._length(cosine_B.detach())
        return self.length_weight * (length_B / self.upper_length**2 + 1 / length_B) + 0 * cosine_B
