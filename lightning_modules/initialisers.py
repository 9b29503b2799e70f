# SPDX-License-Identifier: MIT
"""How the class rows of a head start.

Axes: C classes, D embedding dimension, R rows per class.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from datamodules.partitioners.samples import TrainingSamples


class Initialiser(ABC):
    """How the class rows of a head start.

    Attributes:
        informed: whether rows start where the samples of their class are, so that few steps suffice.
    """

    informed: bool = False

    def fit(self, samples: TrainingSamples) -> "Initialiser":
        """An initialiser that has seen the samples of the head's classes; this one is left as it is.

        Returns itself unless the rows depend on more than the class means.
        """
        return self

    @abstractmethod
    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Starting rows, (C, D) float32, of unit class means."""


def starting_rows(
    initialiser: Initialiser, class_means_CD: Tensor, generator: torch.Generator, rows_per_class: int = 1
) -> Tensor:
    """The rows a head starts from.

    Args:
        class_means_CD: (C, D) float32 unit class means.
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
        return torch.randn(class_means_CD.shape, generator=generator) * math.sqrt(2 / class_means_CD.shape[1])


class PrototypeInit(Initialiser):
    """Each class starts at its class mean: before any training the head is the nearest-class-mean classifier."""

    informed = True

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        return class_means_CD.clone()
