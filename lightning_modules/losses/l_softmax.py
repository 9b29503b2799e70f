# SPDX-License-Identifier: MIT
"""L-Softmax: multiplicative angular margin, class rows of any length (Liu et al., ICML 2016, eq. 4 to 6)."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.losses.a_softmax import psi
from lightning_modules.losses.base import ClassificationLoss, scale_for


class LSoftmax(ClassificationLoss):
    """Cross-entropy of s |w_j| cos(theta_j); the true class has s |w_y| (annealing cos + psi) / (annealing + 1).

    psi(theta) = (-1)^k cos(m theta) - 2 k for theta in [k pi / m, (k + 1) pi / m] ("Large-Margin Softmax Loss for
    Convolutional Neural Networks", eq. 6), as in its successor A-Softmax, but the class rows keep their length, which
    is learned. In the paper s is the embedding's length; embeddings are normalised here.

    The margin needs cos(theta_y) and |w_y| apart, which the head's output w_y . x does not tell: `for_lengths` brings
    the lengths of the rows, 1 before. The gradient reaches the rows through angle and length; it is exact, and finite
    at theta = 0 and pi. The slope m^2 at theta = 0 and the floor under sin(theta) are those of `a_softmax.psi`. Outputs
    are not cosines and hardly comparable between sub-networks. m = 4 is the paper's for faces (2 to 4 for objects).
    annealing is lambda of its section 5.1, which falls during training in the published code; here it is a constant.

    Args:
        margin: m, the factor of the angle, at least 1; 1 is softmax.
        annealing: lambda, weight of the plain output, at least 0.
        scale: s; None: `scale_for` the training samples, 1 before `fit`.
    """

    unit_rows = False
    needs_lengths = True

    def __init__(self, margin: float = 4.0, annealing: float = 5.0, scale: float | None = None):
        super().__init__()
        if not (margin >= 1 and annealing >= 0 and (scale is None or scale > 0)):
            got = f"got margin {margin}, annealing {annealing}, scale {scale}"
            raise ValueError(f"{got}; expected margin >= 1, annealing >= 0, scale > 0 or None")
        self.margin, self.annealing, self.by_rule, self.scale = margin, annealing, scale is None, scale or 1.0
        self._row_length_C: Tensor | None = None

    def fit(self, samples: TrainingSamples) -> "LSoftmax":
        return LSoftmax(self.margin, self.annealing, scale_for(samples)) if self.by_rule else self

    def for_lengths(self, embedding_length_B: Tensor, row_length_C: Tensor) -> "LSoftmax":
        bound = copy.copy(self)
        bound._row_length_C = row_length_C
        return bound

    def forward(self, output_BC: Tensor, target_B: Tensor) -> Tensor:
        output_BC = output_BC.float() if output_BC.dtype.itemsize < 4 else output_BC
        output_B = output_BC.gather(1, target_B[:, None]).squeeze(1)
        length_B = torch.ones_like(output_B) if self._row_length_C is None else self._row_length_C[target_B]
        length_B = length_B.clamp_min(1e-12)
        with_margin_B = length_B * psi(output_B / length_B, self.margin)
        own_B = (self.annealing * output_B + with_margin_B) / (self.annealing + 1)
        logit_BC = self.scale * output_BC.scatter(1, target_B[:, None], own_B[:, None])
        return F.cross_entropy(logit_BC, target_B, reduction="none")
