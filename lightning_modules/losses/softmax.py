# SPDX-License-Identifier: MIT
"""Plain softmax cross-entropy over w_j . x, class rows of any length, no bias."""

from torch import Tensor

from lightning_modules.losses.base import MarginLoss


class Softmax(MarginLoss):
    """Cross-entropy of w_j . x for unit embeddings x: the length of a row is learned, there is no scale and no bias.

    The outputs are not cosines and not comparable between sub-networks in the way cosines are.
    """

    unit_rows = False
    scale = 1.0

    def target_logit(self, cosine_B: Tensor) -> Tensor:
        return cosine_B
