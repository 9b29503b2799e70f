# SPDX-License-Identifier: MIT
"""Plain softmax cross-entropy over w_j . x, class rows of any length, no bias."""

from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.losses.base import scale_for
from lightning_modules.losses.cosface import CosFace


class Softmax(CosFace):
    """Cross-entropy of s w_j . x for unit embeddings x: the length of a row is learned, there is no bias.

    The outputs w_j . x are not cosines and not comparable between sub-networks in the way cosines are.

    Args:
        scale: s, stands for the length of the embeddings. None: `scale_for` the training samples, 1 before `fit`. At 1,
            rows of about unit length would have to grow for hundreds of steps before they could tell classes apart.
    """

    unit_rows = False

    def __init__(self, scale: float | None = None):
        super().__init__(1.0 if scale is None else scale, margin=0.0)
        self.by_rule = scale is None

    def fit(self, samples: TrainingSamples) -> "Softmax":
        return Softmax(scale_for(samples)) if self.by_rule else self
