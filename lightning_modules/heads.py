# SPDX-License-Identifier: MIT
"""The trained part of a sub-network: one row per class. And how the rows start.

Axes: B batch, C classes, D embedding dimension.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_modules.fused import DEFAULT_LOGITS_BYTES, fused_margin_softmax, matmul_precision
from lightning_modules.losses.base import ClassificationLoss, MarginLoss


class Head(nn.Module):
    """A linear layer without bias on unit embeddings: outputs are cosines, or w_j . x where rows keep their length.

    Args:
        rows_CD: (C, D) float32 class rows to start from.
        unit_rows: whether rows are divided by their length before the product.
        precision: of the large matrix products in training, see `lightning_modules.fused.matmul_precision`.
        max_logits_bytes: bound on the bytes of B x C outputs held at once in training.
    """

    def __init__(
        self,
        rows_CD: Tensor,
        unit_rows: bool = True,
        precision: str = "highest",
        max_logits_bytes: int = DEFAULT_LOGITS_BYTES,
    ):
        super().__init__()
        self.weight_CD = nn.Parameter(rows_CD.detach().clone().float())
        self.unit_rows, self.precision, self.max_logits_bytes = unit_rows, precision, max_logits_bytes

    def rows(self) -> Tensor:
        """The class rows as the product uses them: (C, D), of unit length where `unit_rows`."""
        return nn.functional.normalize(self.weight_CD) if self.unit_rows else self.weight_CD

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Outputs of all classes.

        Args:
            embedding_BD: (B, D) float32 of unit length.

        Returns:
            (B, C) float32: cosines where `unit_rows`.
        """
        return embedding_BD @ self.rows().T

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample: fused for a margin loss, by plain autograd for any other.

        Args:
            embedding_BD: (B, D) float32 of unit length.
            target_B: (B,) int64 in [0, C).
            loss: what to compute.

        Returns:
            (B,) float32.
        """
        if isinstance(loss, MarginLoss):
            return fused_margin_softmax(
                embedding_BD, self.weight_CD, target_B, loss, self.precision, self.max_logits_bytes
            )
        with matmul_precision(self.precision):
            return loss(self(embedding_BD), target_B)


class Initialiser(ABC):
    """How the class rows of a head start."""

    @abstractmethod
    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Starting rows.

        Args:
            class_means_CD: (C, D) float32 unit class means of the head's classes.
            generator: of everything random.

        Returns:
            (C, D) float32.
        """


class RandomInit(Initialiser):
    """Normal rows with standard deviation sqrt(2 / D) (He et al., ICCV 2015, eq. 10), the recipe of the paper."""

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """He-normal rows that look at the shape of the class means only; see `Initialiser.rows`."""
        return torch.randn(class_means_CD.shape, generator=generator) * math.sqrt(2 / class_means_CD.shape[1])


class PrototypeInit(Initialiser):
    """Each class starts at its class mean: before any training the head is the nearest-class-mean classifier."""

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """The class means themselves; see `Initialiser.rows`."""
        return class_means_CD.clone()
