# SPDX-License-Identifier: MIT
"""Generalised k-means against the procedure of its source: a Python loss per point, BFGS on the summed loss.

Both start from the same centres and stop when no point changes its cluster. Axes: N points, M clusters, D dimensions.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize

from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.pairing import seconds

DELTA, SIGMA, EPSILON = 1.345, 1.0, 0.5  # as in GeneralisedKMeans, in units of the features
BFGS_ITERATIONS = 20

PointLoss = Callable[[np.ndarray, np.ndarray], float]


def _huber(x_D: np.ndarray, mu_D: np.ndarray) -> float:
    size = np.abs(x_D - mu_D)
    return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


def _pseudo_huber(x_D: np.ndarray, mu_D: np.ndarray) -> float:
    return float((DELTA**2 * (np.sqrt(1 + ((x_D - mu_D) / DELTA) ** 2) - 1)).sum())


def _correntropy(x_D: np.ndarray, mu_D: np.ndarray) -> float:
    return float((1 - np.exp(-((x_D - mu_D) ** 2) / (2 * SIGMA**2))).sum())


def _epsilon_insensitive(x_D: np.ndarray, mu_D: np.ndarray) -> float:
    return float(np.maximum(0, np.abs(x_D - mu_D) - EPSILON).sum())


POINT_LOSSES: dict[str, PointLoss] = {
    "huber": _huber,
    "pseudo_huber": _pseudo_huber,
    "correntropy": _correntropy,
    "epsilon_insensitive": _epsilon_insensitive,
}


def features(n: int = 180, dim: int = 512, groups: int = 3, seed: int = 0) -> np.ndarray:
    """Non-negative heavy-tailed numbers in a few overlapping groups, like pooled activations: (n, dim) float64."""
    random = np.random.default_rng(seed)
    levels = random.gamma(2.0, 1.0, (groups, dim))
    return np.abs(levels[np.arange(n) % groups] + random.standard_t(3, (n, dim)))


def source_procedure(loss: PointLoss, points_ND: np.ndarray, centres_MD: np.ndarray) -> tuple[float, float]:
    """Clusters point by point, with scipy's BFGS and its numerical gradient for the centres.

    Returns:
        The objective and the wall clock in seconds.
    """
    start = time.perf_counter()
    centres, labels = list(centres_MD), None
    while True:
        losses_NM = np.array([[loss(point, centre) for centre in centres] for point in points_ND])
        former, labels = labels, losses_NM.argmin(axis=1)
        if former is not None and np.array_equal(labels, former):
            return float(losses_NM.min(axis=1).sum()), time.perf_counter() - start
        for j in range(len(centres)):
            members = points_ND[labels == j]
            if len(members):
                centres[j] = minimize(
                    lambda centre, members=members: sum(loss(point, centre) for point in members),
                    centres[j],
                    method="BFGS",
                    options={"maxiter": BFGS_ITERATIONS},
                ).x


def records(repeats: int = 20, losses: Sequence[str] = tuple(POINT_LOSSES), dim: int = 512) -> Iterator[dict]:
    """Two measurements per loss for k = 3 on 180 points: wall clock, and the objective that it bought.

    Args:
        repeats: fits of ours, of which the median counts; the source's procedure takes about a minute and runs once.
    """
    points_ND = features(dim=dim)
    first_MD = points_ND[np.random.default_rng(1).choice(len(points_ND), 3, replace=False)]
    for name in losses:
        estimator = GeneralisedKMeans(3, loss=name, delta=DELTA, sigma=SIGMA, epsilon=EPSILON, init=first_MD)
        estimator.fit(points_ND)  # the first call pays for imports and allocations
        taken = [seconds(partial(estimator.fit, points_ND)) for _ in range(repeats)]
        objective, their_seconds = source_procedure(POINT_LOSSES[name], points_ND, first_MD)
        for what, unit, ours, theirs in (
            (f"image clustering, {name}", "s", taken, their_seconds),
            (f"image clustering, {name}, objective", "summed loss", [estimator.inertia_], objective),
        ):
            middle = float(np.median(ours))
            yield {
                "name": what, "classes": 3, "batch": len(points_ND), "precision": "float64",
                "against": "BFGS on a per-point loss", "ratio": theirs / middle, "ratio_min": theirs / max(ours),
                "ratio_max": theirs / min(ours), "unit": unit, "ours": middle, "theirs": theirs,
            }  # fmt: skip


@dataclass
class ImageClusteringBenchmark(Group):
    """The records of this file as a group of the suite."""

    repeats: int = 20
    losses: Sequence[str] = tuple(POINT_LOSSES)
    dim: int = 512

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        return records(self.repeats, self.losses, self.dim)
