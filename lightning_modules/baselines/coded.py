# SPDX-License-Identifier: MIT
"""A network with few outputs. Axes: B batch, D embedding dimension, L outputs, H hidden units."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.baselines.base import BaselineTask
from lightning_modules.heads.base import Head
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.subnetwork import SubNetwork


class CodeHead(Head):
    """Outputs that stand for parts of a code, not for classes: linear, or linear on a layer of hidden units.

    Args:
        hidden: H units with ReLU shared by all outputs; 0 for none.
    """

    def __init__(self, outputs: int, dim: int, hidden: int, precision: str, generator: torch.Generator):
        width = hidden or dim
        rows_LH = torch.randn(outputs, width, generator=generator) / math.sqrt(width)
        super().__init__(rows_LH, unit_rows=False, precision=precision)
        self.weight_LH = nn.Parameter(rows_LH)
        self.body_HD = None
        if hidden:
            self.body_HD = nn.Parameter(torch.randn(hidden, dim, generator=generator) * math.sqrt(2 / dim))

    def scores(self, embedding_BD: Tensor) -> Tensor:
        """(B, L) outputs of (B, D) unit embeddings, whose coordinates are scaled to a variance of 1 first."""
        input_BD = embedding_BD * math.sqrt(embedding_BD.shape[1])
        hidden_BH = input_BD if self.body_HD is None else F.relu(input_BD @ self.body_HD.T)
        return hidden_BH @ self.weight_LH.T


def trained_head(task: BaselineTask, outputs: int, hidden: int, loss: ClassificationLoss) -> CodeHead:
    """A head of codes, trained on the identities of a task by a loss of (B, L) outputs and (B,) identities."""
    dim = task.class_means_KD.shape[1]
    head = CodeHead(outputs, dim, hidden, task.precision, task.generator(1))
    task.train_network(SubNetwork(head, loss, task.optimizer), None, 0)
    return head.requires_grad_(False)


def count(head: CodeHead) -> int:
    """Numbers of a head."""
    return sum(parameter.numel() for parameter in head.parameters())
