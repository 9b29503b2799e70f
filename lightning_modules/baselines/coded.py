# SPDX-License-Identifier: MIT
"""What output codes and label mapping share: a network with few outputs, trained through `SubNetwork`.

Axes: B batch, D embedding dimension, L outputs, H hidden units.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.baselines.base import Task
from lightning_modules.heads import Head
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.subnetwork import SubNetwork


class CodeHead(Head):
    """Outputs that stand for parts of a code, not for classes: linear, or linear on a layer of hidden units.

    Args:
        outputs: L.
        dim: D.
        hidden: H units with ReLU shared by all outputs; 0 for none.
        precision: of matrix products in training.
        generator: of the starting weights.
    """

    def __init__(self, outputs: int, dim: int, hidden: int, precision: str, generator: torch.Generator):
        width = hidden or dim
        rows_LH = torch.randn(outputs, width, generator=generator) / math.sqrt(width)
        super().__init__(rows_LH, unit_rows=False, precision=precision)
        self.body_HD = None
        if hidden:
            self.body_HD = nn.Parameter(torch.randn(hidden, dim, generator=generator) * math.sqrt(2 / dim))

    def outputs(self, embedding_BD: Tensor, rows_CD: Tensor) -> Tensor:
        """(B, L) outputs of (B, D) unit embeddings, whose coordinates are scaled to a variance of 1 first."""
        input_BD = embedding_BD * math.sqrt(embedding_BD.shape[1])
        hidden_BH = input_BD if self.body_HD is None else F.relu(input_BD @ self.body_HD.T)
        return hidden_BH @ rows_CD.T

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample by plain autograd; see `Head.loss`."""
        with matmul_precision(self.precision):
            return loss(self(embedding_BD), target_B)


def trained_head(task: Task, outputs: int, hidden: int, loss: ClassificationLoss) -> CodeHead:
    """A head of codes, trained on the identities of a task.

    Args:
        task: see `Baseline.fit`.
        outputs: L.
        hidden: H.
        loss: of (B, L) outputs and (B,) identities.
    """
    dim = task.class_means_KD.shape[1]
    head = CodeHead(outputs, dim, hidden, task.precision, task.generator(1))
    task.train_network(SubNetwork(head, loss, task.optimizer), None, 0)
    return head.requires_grad_(False)


def count(head: CodeHead) -> int:
    """Numbers of a head.

    Args:
        head: trained.
    """
    return sum(parameter.numel() for parameter in head.parameters())
