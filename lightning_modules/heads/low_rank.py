# SPDX-License-Identifier: MIT
"""Class rows of low rank: fewer numbers to train, to keep and to send. Axes: C classes, D dimension, r rank."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.heads.linear import LinearHead


class LowRankHead(LinearHead):
    """Rows W = A B with A (C, r) and B (r, D): r (C + D) numbers instead of C D. A step still computes W.

    B starts as the r first right singular vectors of the rows, the best approximation (Eckart & Young, 1936).

    Args:
        rank: r, at least 1; more than D counts as D.
        **options: see `Head`.
    """

    def __init__(self, rows_CD: Tensor, rank: int = 64, **options: Any):
        if rank < 1:
            raise ValueError(f"got rank {rank}; expected at least 1")
        super().__init__(rows_CD, **options)
        rows_CD = self.weight_CD.detach()
        del self.weight_CD
        _, vectors_DD = torch.linalg.eigh(rows_CD.T @ rows_CD)  # ascending eigenvalues
        basis_rD = vectors_DD.T.flip(0)[:rank].contiguous()
        self.basis_rD, self.factor_Cr = nn.Parameter(basis_rD), nn.Parameter(rows_CD @ basis_rD.T)

    def weight(self) -> Tensor:
        return self.factor_Cr @ self.basis_rD

    def recycle_gradient(self) -> None:
        """Nothing: the gradient of W belongs to autograd."""
