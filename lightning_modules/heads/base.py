# SPDX-License-Identifier: MIT
"""Heads: scores of all classes of one sub-network. Axes: B batch, C classes, R rows per class, D dimension."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.fused import DEFAULT_LOGITS_BYTES
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.base import ClassificationLoss


class Head(nn.Module, ABC):
    """The trained part of a sub-network. A head of your own states `scores`; all else has a default.

    A head may start at the rows of the initialiser or take only their shape. Random weights that a constructor draws
    depend on (seed, sub-network) alone.

    Args:
        rows_CD: (C R, D) float32 starting rows, the R rows of a class in succession.
        unit_rows: whether rows have unit length, so that scores are cosines.
        precision: of large matrix products in training, see `lightning_modules.kernels.matmul_precision`.
        max_logits_bytes: bound on the bytes of B x C scores held at once.
        rows_per_class: R; the score of a class is the largest of its R rows.
    """

    def __init__(
        self, rows_CD: Tensor, unit_rows: bool = True, precision: str = "highest",
        max_logits_bytes: int = DEFAULT_LOGITS_BYTES, rows_per_class: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.n_classes, self.dim = len(rows_CD) // rows_per_class, rows_CD.shape[1]
        self.unit_rows, self.precision, self.max_logits_bytes = unit_rows, precision, max_logits_bytes
        self.rows_per_class = rows_per_class

    @abstractmethod
    def scores(self, embedding_BD: Tensor) -> Tensor:
        """Scores of all classes, (B, C) float32, of unit embeddings. A margin loss takes them for cosines."""

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return self.scores(embedding_BD)

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample in training, (B,) float32, of unit embeddings and int64 targets in [0, C)."""
        with matmul_precision(self.precision):
            return loss(self.scores(embedding_BD), target_B)

    @torch.no_grad()
    def judge(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> tuple[Tensor, Tensor]:
        """Loss of each sample in validation, (B,) float32, and whether its class has the highest score, (B,) bool."""
        score_BC = self.scores(embedding_BD)
        return loss(score_BC, target_B), score_BC.argmax(1) == target_B

    def linear_rows(self) -> Tensor | None:
        """(C R, D) rows whose products with unit embeddings are the scores; None for a head that is not linear.

        Only a linear head can be enrolled into without training, exported as ONNX, or searched through an index.
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser, as `torch.optim` takes them. A group may state a learning rate `lr` of its own."""
        return [{"params": list(self.parameters())}]
