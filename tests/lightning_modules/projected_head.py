# SPDX-License-Identifier: MIT
"""A head that is not linear. Axes: B batch, D embedding dimension, H hidden units."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.heads.base import Head


class ProjectedHead(Head):
    """Cosines between class rows and normalise(x + V relu(U x)); V starts at zero."""

    def __init__(self, rows_CD: Tensor, hidden: int = 64, lr: float | None = 1e-4, **options: Any):
        super().__init__(rows_CD, **options)
        self.weight_CD = nn.Parameter(rows_CD.detach().clone().float())
        self.down, self.up = nn.Linear(self.dim, hidden, bias=False), nn.Linear(hidden, self.dim, bias=False)
        nn.init.zeros_(self.up.weight)
        self.lr = lr

    def scores(self, embedding_BD: Tensor) -> Tensor:
        moved_BD = F.normalize(embedding_BD + self.up(torch.relu(self.down(embedding_BD))))
        return moved_BD @ (F.normalize(self.weight_CD) if self.unit_rows else self.weight_CD).T

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The projection has a learning rate of its own, unless that is None."""
        projection = {"params": [self.down.weight, self.up.weight]}
        return [{"params": [self.weight_CD]}, projection if self.lr is None else {**projection, "lr": self.lr}]
