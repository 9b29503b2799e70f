# SPDX-License-Identifier: MIT
"""How the class rows of a head start. Axes: C classes, D embedding dimension, R rows per class."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from datamodules.partitioners.samples import TrainingSamples


class Initialiser(ABC):
    """Makes the rows a head starts from."""

    informed: bool = False  # whether rows start near the samples of their class, so that few steps suffice

    def fit(self, samples: TrainingSamples) -> "Initialiser":
        """An initialiser that has seen the samples of the head's classes, or this one, which is left as it is."""
        return self

    @abstractmethod
    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Starting rows, (C, D) float32, of unit class means."""


def starting_rows(
    initialiser: Initialiser, class_means_CD: Tensor, generator: torch.Generator, rows_per_class: int = 1
) -> Tensor:
    """The rows a head starts from: (C R, D) float32, the R rows of a class in succession.

    All but the first of a class are moved by noise of a tenth of their length; equal rows would share every gradient.
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
