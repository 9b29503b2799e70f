# SPDX-License-Identifier: MIT
"""A small residual projection before the class rows. Axes: B batch, D embedding dimension, H hidden units."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead


class ProjectedHead(LinearHead):
    """Cosines between class rows and normalise(x + V relu(U x)).

    V starts at zero, so the projection starts as the identity and the head as a `LinearHead`.

    Args:
        hidden: H, at least 1.
        lr: learning rate of U and V; None takes that of the rows.
        **options: see `Head`.
    """

    def __init__(self, rows_CD: Tensor, hidden: int = 64, lr: float | None = 1e-4, **options: Any):
        if hidden < 1 or (lr is not None and lr <= 0):
            raise ValueError(f"got hidden {hidden}, lr {lr}; expected hidden >= 1, lr > 0 or null")
        super().__init__(rows_CD, **options)
        self.down, self.up = nn.Linear(self.dim, hidden, bias=False), nn.Linear(hidden, self.dim, bias=False)
        nn.init.zeros_(self.up.weight)
        self.lr = lr

    def embed(self, embedding_BD: Tensor) -> Tensor:
        return F.normalize(embedding_BD + self.up(torch.relu(self.down(embedding_BD))))

    def parameter_groups(self) -> list[dict[str, Any]]:
        projection = {"params": [self.down.weight, self.up.weight]}
        return [{"params": [self.weight_CD]}, projection if self.lr is None else {**projection, "lr": self.lr}]
