# SPDX-License-Identifier: MIT
"""Losses of a point against a cluster centre, each with the centre that minimises its sum.

A loss is summed over the coordinates, so a centre is D one-dimensional problems (Bradley, Mangasarian & Street,
"Clustering via Concave Minimization", NIPS 1997, section 3). r is the residual x - mu of one coordinate.

Axes: N samples, C members of one cluster, D dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.errors import InputError

CHUNK_ELEMENTS = 1 << 17  # 1 MiB of float64: a block and its temporaries stay in the cache of one core
MAX_STEPS = 100  # of one centre; the next assignment starts from where it ended
STEP_TOLERANCE = 1e-6  # a step shorter than this share of the loss's `length` ends the search


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices that cover `n_rows` rows in blocks of about CHUNK_ELEMENTS numbers."""
    step = max(1, CHUNK_ELEMENTS // max(n_columns, 1))
    return (slice(start, start + step) for start in range(0, n_rows, step))


class CentreLoss(ABC):
    """rho(r) of a residual r = x - mu, even in r, with rho(0) = 0 and never falling as |r| grows."""

    exact = True  # whether `centre` returns a minimiser rather than a better centre

    @abstractmethod
    def value(self, residual: np.ndarray) -> np.ndarray:
        """rho of each number of `residual`, in the same shape; does not change `residual`."""

    @abstractmethod
    def centre(self, members_CD: np.ndarray, start_D: np.ndarray) -> np.ndarray:
        """A (D,) float64 centre of one member or more, whose summed loss exceeds that of `start_D` in no coordinate."""

    def to_centre(self, points_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
        """Loss of every point against one centre, summed over the coordinates: (N,) float64."""
        losses_N = np.empty(len(points_ND))
        for rows in row_blocks(*points_ND.shape):
            losses_N[rows] = self.value(points_ND[rows] - centre_D).sum(axis=1, dtype=np.float64)
        return losses_N

    def per_coordinate(self, members_CD: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
        """Loss of one centre summed over the members, for every coordinate: (D,) float64."""
        losses_D = np.zeros(members_CD.shape[1])
        for rows in row_blocks(*members_CD.shape):
            losses_D += self.value(members_CD[rows] - centre_D).sum(axis=0, dtype=np.float64)
        return losses_D


class Square(CentreLoss):
    """rho(r) = r^2; the centre is the mean."""

    def value(self, residual):
        return residual * residual

    def centre(self, members_CD, start_D):
        return members_CD.mean(axis=0, dtype=np.float64)


class Absolute(CentreLoss):
    """rho(r) = |r|; the centre is the median of each coordinate."""

    def value(self, residual):
        return np.abs(residual)

    def centre(self, members_CD, start_D):
        return _median(members_CD)


@dataclass(frozen=True)
class EpsilonInsensitive(CentreLoss):
    """rho(r) = max(0, |r| - epsilon); the centre is the median of the 2C numbers x - epsilon and x + epsilon.

    Because rho(x - mu) = (|mu - (x - epsilon)| + |mu - (x + epsilon)|) / 2 - epsilon.
    """

    epsilon: float  # half width of the free zone, in units of the features, >= 0; 0 is the absolute loss

    def __post_init__(self):
        _check("epsilon", self.epsilon, allow_zero=True)

    def value(self, residual):
        return np.maximum(np.abs(residual) - self.epsilon, 0)

    def centre(self, members_CD, start_D):
        return _median(np.concatenate([members_CD - self.epsilon, members_CD + self.epsilon]))


class ReweightedLoss(CentreLoss):
    """A loss whose weight rho'(r) / r falls with |r|; the centre is found by iteratively re-weighted means.

    No step raises the objective (half-quadratic majorisation, Nikolova & Ng, SIAM J. Sci. Comput. 27(3), 2005).
    """

    exact = False

    @property
    @abstractmethod
    def length(self) -> float:
        """Residual from which on the loss is no longer quadratic, in units of the features."""

    @abstractmethod
    def weight(self, residual: np.ndarray) -> np.ndarray:
        """rho'(r) / r up to a constant factor, in [0, 1], non-increasing in |r|, in the same shape as r."""

    def centre(self, members_CD, start_D):
        # The median resists outliers. A start that is better is kept: a loss with several minima must not rise.
        median_D = _median(members_CD)
        better_D = self.per_coordinate(members_CD, median_D) < self.per_coordinate(members_CD, start_D)
        centre_D = np.where(better_D, median_D, start_D)
        for _ in range(MAX_STEPS):
            step_D = self._step(members_CD, centre_D)
            centre_D = centre_D + step_D
            if np.abs(step_D).max(initial=0) <= STEP_TOLERANCE * self.length:
                break
        return centre_D

    def _step(self, members_CD: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
        pull_D, mass_D = np.zeros(len(centre_D)), np.zeros(len(centre_D))
        for rows in row_blocks(*members_CD.shape):
            residual = members_CD[rows] - centre_D
            weight = self.weight(residual)
            mass_D += weight.sum(axis=0, dtype=np.float64)
            pull_D += (weight * residual).sum(axis=0, dtype=np.float64)
        # If all members are too far to count, the centre stays.
        return np.divide(pull_D, mass_D, out=np.zeros_like(pull_D), where=mass_D > np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Huber(ReweightedLoss):
    """rho(r) = r^2 / 2 up to |r| = delta, delta (|r| - delta / 2) beyond (Huber, Ann. Math. Statist. 35(1), 1964)."""

    delta: float  # where the parabola turns into a line, in units of the features, > 0

    def __post_init__(self):
        _check("delta", self.delta)

    @property
    def length(self) -> float:
        return self.delta

    def value(self, residual):
        size = np.abs(residual)
        inner = np.minimum(size, self.delta)
        return inner * (size - inner / 2)

    def weight(self, residual):
        return self.delta / np.maximum(np.abs(residual), self.delta)


@dataclass(frozen=True)
class PseudoHuber(Huber):
    """rho(r) = delta^2 (sqrt(1 + (r / delta)^2) - 1): smooth; r^2 / 2 near zero, delta |r| far away."""

    def value(self, residual):
        ratio2 = np.square(residual / self.delta)
        return self.delta**2 * (ratio2 / (np.sqrt(1 + ratio2) + 1))  # the textbook form cancels near r = 0

    def weight(self, residual):
        return 1 / np.sqrt(1 + np.square(residual / self.delta))


@dataclass(frozen=True)
class Correntropy(ReweightedLoss):
    """rho(r) = 1 - exp(-r^2 / (2 sigma^2)), bounded by 1 and not convex: the centre is a local minimum.

    Liu, Pokharel & Principe, "Correntropy", IEEE Transactions on Signal Processing 55(11), 2007.
    """

    sigma: float  # kernel width in units of the features, > 0

    def __post_init__(self):
        _check("sigma", self.sigma)

    @property
    def length(self) -> float:
        return self.sigma

    def value(self, residual):
        return -np.expm1(-0.5 * np.square(residual / self.sigma))

    def weight(self, residual):
        return np.exp(-0.5 * np.square(residual / self.sigma))


def _median(members_CD: np.ndarray) -> np.ndarray:
    # Contiguous rows: several times faster than numpy's median along the long axis.
    columns_DC = np.array(members_CD.T, order="C")
    low, high = (columns_DC.shape[1] - 1) // 2, columns_DC.shape[1] // 2
    columns_DC.partition((low, high), axis=1)
    return (columns_DC[:, low].astype(np.float64) + columns_DC[:, high]) / 2


def _check(name: str, value: float, allow_zero: bool = False) -> None:
    if not (np.isfinite(value) and (value > 0 or allow_zero and value == 0)):
        raise InputError(f"{name} = {value}", f"a finite number {'>=' if allow_zero else '>'} 0", f"set {name}")


LOSSES = {  # name: the class and the parameters it takes, each of which is a length
    "square": (Square, ()),
    "absolute": (Absolute, ()),
    "huber": (Huber, ("delta",)),
    "pseudo_huber": (PseudoHuber, ("delta",)),
    "correntropy": (Correntropy, ("sigma",)),
    "epsilon_insensitive": (EpsilonInsensitive, ("epsilon",)),
}
