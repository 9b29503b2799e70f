# SPDX-License-Identifier: MIT
"""Losses of classification: per-sample values from the outputs of a head.

Axes: B batch, C classes of one sub-network. A cosine is in [-1, 1], an angle in radians, a scale has no dimension.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.partitioners.samples import TrainingSamples

SMALLEST_SINE_SQUARE = torch.finfo(torch.float32).eps


class ClassificationLoss(nn.Module, ABC):
    """Base of all losses on a head's outputs. A loss holds no class rows, reduces nothing and knows no optimiser.

    Parameters of a loss are trained and saved with those of the head.

    Attributes:
        unit_rows: whether the head divides its class rows by their length, so that outputs are cosines (the default).
        rows_per_class: R, rows the head keeps for each class; a class's output is the largest of its R.
        needs_lengths: whether lengths of embeddings or rows matter, see `for_lengths`.
        needs_raw_embeddings: whether the data's embeddings must have lengths of their own.
    """

    unit_rows: bool = True
    rows_per_class: int = 1
    needs_lengths: bool = False
    needs_raw_embeddings: bool = False

    def fit(self, samples: TrainingSamples) -> "ClassificationLoss":
        """The loss to train with: one that learned from the training samples of the head's classes, or this one.

        Called once, before the first step. This loss is left as it is.
        """
        return self

    def epoch_starts(self, epoch: int, max_epochs: int) -> None:  # noqa: B027 most losses are the same in every epoch
        """Called before each training epoch, counted from 0."""

    def for_lengths(self, embedding_length_B: Tensor, row_length_C: Tensor | None) -> "ClassificationLoss":
        """The loss of one batch, for losses that state `needs_lengths`.

        Args:
            embedding_length_B: float32 lengths before normalisation, above 0.
            row_length_C: float32 lengths of the class rows before normalisation, differentiable; None for a head
                without rows.
        """
        return self

    @abstractmethod
    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        """Loss of each sample: (B,) float32, finite for finite outputs (B, C) and targets (B,) int64 in [0, C)."""


class MarginLoss(ClassificationLoss):
    """Cross-entropy over scaled cosines in which only the logit of the true class is special.

    A sub-class states `scale`, the factor of the other classes' cosines, and `target_logit`. It gets the fused path of
    `lightning_modules.fused`, with the derivative of `target_logit` from autograd on B numbers.
    """

    scale: float

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "target_logit" in vars(cls) and "target_slope" not in vars(cls):
            # The parent's closed form belongs to the parent's logit.
            setattr(cls, "target_slope", MarginLoss.target_slope)  # noqa: B010 methods cannot be assigned by name

    @abstractmethod
    def target_logit(self, cosine_B: Tensor) -> Tensor:
        """Logit of the true class: (B,) float32; its derivative must be finite for every cosine in [-1, 1].

        Rounding may carry a cosine past +-1.
        """

    def target_slope(self, cosine_B: Tensor) -> Tensor | None:
        """Derivative of `target_logit` by the cosine in closed form: (B,); None leaves it to autograd, slower."""
        return None

    def penalty(self, cosine_B: Tensor) -> Tensor | None:
        """A term that depends on the true class's cosine alone: (B,) with a finite derivative; None adds nothing."""
        return None

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        """The plain formulation, the reference of the fused one: see `ClassificationLoss.forward`."""
        cosine_BC = cosine_BC.float() if cosine_BC.dtype.itemsize < 4 else cosine_BC  # 16 bits cannot hold 1 - 1e-4
        column_B1 = target_B[:, None]
        cosine_B = cosine_BC.gather(1, column_B1).squeeze(1)
        logit_B1, penalty_B = self.target_logit(cosine_B)[:, None], self.penalty(cosine_B)
        logit_BC = (self.scale * cosine_BC).scatter(1, column_B1, logit_B1)
        loss_B = F.cross_entropy(logit_BC, target_B, reduction="none")
        return loss_B if penalty_B is None else loss_B + penalty_B


def scale_for(samples: TrainingSamples) -> float:
    """The smallest scale at which the softmax of C cosines can give a class 99 %: (C - 1) / C ln(99 (C - 1)).

    CosFace (Wang et al., CVPR 2018), eq. 6; at least 1.
    """
    classes = len(samples.counts())
    return max(1.0, (classes - 1) / classes * math.log(99 * max(classes - 1, 1)))


def sine_from_cosine(cosine: Tensor) -> Tensor:
    """sin(theta) >= sqrt(eps), of any shape, from cos(theta), with a derivative that stays finite at cos = +-1.

    (1 - c)(1 + c) keeps the digits that 1 - c^2 loses near 1. The slope of acos is infinite at +-1; the floor, one
    rounding step of float32 (theta = 3.5e-4), bounds it there and is active nowhere else.
    """
    return ((1 - cosine) * (1 + cosine)).clamp_min(SMALLEST_SINE_SQUARE).sqrt()
