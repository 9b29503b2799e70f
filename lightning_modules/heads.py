# SPDX-License-Identifier: MIT
"""The trained part of a sub-network: one row per class. And how the rows start.

Axes: B batch, C classes, D embedding dimension.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.fused import DEFAULT_LOGITS_BYTES, Buffers, fused_margin_softmax, target_terms
from lightning_modules.kernels import PLAIN, Kernels, compiled, matmul_precision
from lightning_modules.losses.base import ClassificationLoss, MarginLoss


class Head(nn.Module):
    """A linear layer without bias on unit embeddings: outputs are cosines, or w_j . x where rows keep their length.

    Args:
        rows_CD: (C, D) float32 class rows to start from; (C R, D) where a class has R, those of a class in succession.
        unit_rows: whether rows are divided by their length before the product.
        precision: of the large matrix products in training, see `lightning_modules.kernels.matmul_precision`.
        max_logits_bytes: bound on the bytes of B x C outputs held at once in training.
        rows_per_class: R; the output of a class is the largest of its R rows.
        compiled: whether torch.compile makes the passes over large matrices in training; it has to be tried whether
            it pays. Loss and gradient are the same up to rounding.
    """

    def __init__(
        self,
        rows_CD: Tensor,
        unit_rows: bool = True,
        precision: str = "highest",
        max_logits_bytes: int = DEFAULT_LOGITS_BYTES,
        rows_per_class: int = 1,
        compiled: bool = False,
    ):
        super().__init__()
        self.weight_CD = nn.Parameter(rows_CD.detach().clone().float())
        self.unit_rows, self.precision, self.max_logits_bytes = unit_rows, precision, max_logits_bytes
        self.rows_per_class, self.compiled, self.scratch = rows_per_class, compiled, Buffers()

    @property
    def kernels(self) -> Kernels:
        """The passes over large matrices in training."""
        return compiled() if self.compiled else PLAIN

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
        return self.outputs(embedding_BD, self.rows())

    def outputs(self, embedding_BD: Tensor, rows_CD: Tensor) -> Tensor:
        """As `forward`, for many batches in turn, whose rows need to be made once.

        Args:
            embedding_BD: (B, D) float32 of unit length.
            rows_CD: what `rows` gave.

        Returns:
            (B, C) float32.
        """
        output = embedding_BD @ rows_CD.T
        return output if self.rows_per_class == 1 else output.unflatten(1, (-1, self.rows_per_class)).amax(2)

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample: fused for a margin loss, by plain autograd for any other.

        Args:
            embedding_BD: (B, D) float32 of unit length.
            target_B: (B,) int64 in [0, C).
            loss: what to compute.

        Returns:
            (B,) float32.
        """
        if isinstance(loss, MarginLoss) and self.rows_per_class == 1:
            return fused_margin_softmax(
                embedding_BD, self.weight_CD, target_B, loss, self.precision, self.max_logits_bytes, self.scratch,
                self.kernels,
            )  # fmt: skip
        with matmul_precision(self.precision):
            return loss(self(embedding_BD), target_B)

    @torch.no_grad()
    def judge(
        self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss, rows_CD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss of each sample and whether its class has the highest output, float32 throughout.

        Args:
            embedding_BD: (B, D) float32 of unit length.
            target_B: (B,) int64 in [0, C).
            loss: what to compute.
            rows_CD: what `rows` gave.

        Returns:
            (B,) float32 and (B,) bool.
        """
        output_BC = self.outputs(embedding_BD, rows_CD)
        hit_B = output_BC.argmax(1) == target_B
        if not isinstance(loss, MarginLoss) or self.rows_per_class > 1:
            return loss(output_BC, target_B), hit_B
        # As the loss has it, in place: its own way makes five more matrices of this size.
        logit_B, _, penalty_B, _ = target_terms(loss, output_BC.gather(1, target_B[:, None]).squeeze(1))
        output_BC.mul_(loss.scale).scatter_(1, target_B[:, None], logit_B[:, None])
        loss_B = output_BC.logsumexp(1) - logit_B
        return loss_B if penalty_B is None else loss_B + penalty_B, hit_B


class Initialiser(ABC):
    """How the class rows of a head start.

    Attributes:
        informed: whether rows start where the samples of their class are, so that few steps suffice.
    """

    informed: bool = False

    def fit(self, samples: TrainingSamples) -> "Initialiser":
        """What the rows depend on beside the class means; nothing, unless an initialiser says otherwise.

        Args:
            samples: training samples of the head's classes; rows of unit length come in blocks.

        Returns:
            An initialiser that has seen them; this one is left as it is.
        """
        return self

    @abstractmethod
    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Starting rows.

        Args:
            class_means_CD: (C, D) float32 unit class means of the head's classes.
            generator: of everything random.

        Returns:
            (C, D) float32.
        """


def starting_rows(
    initialiser: Initialiser, class_means_CD: Tensor, generator: torch.Generator, rows_per_class: int = 1
) -> Tensor:
    """The rows a head starts from.

    Args:
        initialiser: of one row per class.
        class_means_CD: (C, D) float32 unit class means.
        generator: of everything random.
        rows_per_class: R. Rows of one class must not be equal, since equal rows share every gradient for ever: all but
            the first are moved by noise of a tenth of their length.

    Returns:
        (C R, D) float32, the R rows of a class in succession.
    """
    rows_RCD = torch.stack([initialiser.rows(class_means_CD, generator) for _ in range(rows_per_class)])
    noise = torch.randn(rows_RCD[1:].shape, generator=generator) / math.sqrt(rows_RCD.shape[2])
    rows_RCD[1:] += 0.1 * rows_RCD[1:].norm(dim=2, keepdim=True) * noise
    return rows_RCD.transpose(0, 1).flatten(0, 1)


class RandomInit(Initialiser):
    """Normal rows with standard deviation sqrt(2 / D) (He et al., ICCV 2015, eq. 10), the recipe of the paper."""

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """He-normal rows that look at the shape of the class means only; see `Initialiser.rows`."""
        return torch.randn(class_means_CD.shape, generator=generator) * math.sqrt(2 / class_means_CD.shape[1])


class PrototypeInit(Initialiser):
    """Each class starts at its class mean: before any training the head is the nearest-class-mean classifier."""

    informed = True

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """The class means themselves; see `Initialiser.rows`."""
        return class_means_CD.clone()
