# SPDX-License-Identifier: MIT
"""The head of the paper. Axes: B batch, C classes, R rows per class, D embedding dimension."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lightning_modules.fused import Buffers, fused_margin_softmax, target_terms
from lightning_modules.heads.base import Head
from lightning_modules.losses.base import ClassificationLoss, MarginLoss


class LinearHead(Head):
    """A linear layer without bias: scores are cosines, or w_j . x if rows keep their length.

    A sub-class may make its rows differently (`weight`).
    """

    def __init__(self, rows_CD: Tensor, **options: Any):
        super().__init__(rows_CD, **options)
        self.weight_CD = nn.Parameter(rows_CD.detach().clone().float())
        self.scratch = Buffers()

    def weight(self) -> Tensor:
        """(C R, D) class rows of any length, differentiable."""
        return self.weight_CD

    def rows(self) -> Tensor:
        """The class rows as the product uses them: (C R, D), of unit length if `unit_rows`."""
        return nn.functional.normalize(self.weight()) if self.unit_rows else self.weight()

    def linear_rows(self) -> Tensor:
        return self.rows().detach()

    def scores(self, embedding_BD: Tensor) -> Tensor:
        output = embedding_BD @ self.rows().T
        return output if self.rows_per_class == 1 else output.unflatten(1, (-1, self.rows_per_class)).amax(2)

    def _fusible(self, loss: ClassificationLoss) -> TypeGuard[MarginLoss]:
        # The fused path has no gradient by parameters of the loss.
        return isinstance(loss, MarginLoss) and self.rows_per_class == 1 and next(loss.parameters(), None) is None

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        if not self._fusible(loss):
            return super().loss(embedding_BD, target_B, loss)
        return fused_margin_softmax(
            embedding_BD, self.weight(), target_B, loss, self.precision, self.max_logits_bytes,
            self.scratch,
        )  # fmt: skip

    @torch.no_grad()
    def judge(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> tuple[Tensor, Tensor]:
        if not self._fusible(loss):
            return super().judge(embedding_BD, target_B, loss)
        score_BC = self.scores(embedding_BD)  # the loss is computed in it, to save memory
        hit_B = score_BC.argmax(1) == target_B
        logit_B, _, penalty_B, _ = target_terms(loss, score_BC.gather(1, target_B[:, None]).squeeze(1))
        score_BC.mul_(loss.scale).scatter_(1, target_B[:, None], logit_B[:, None])
        loss_B = score_BC.logsumexp(1) - logit_B
        return loss_B if penalty_B is None else loss_B + penalty_B, hit_B

    def recycle_gradient(self) -> None:
        """Lets the next step write the gradient of the rows to the memory of this one's."""
        self.scratch.give(self.weight_CD.grad)
