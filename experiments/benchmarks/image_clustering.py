# SPDX-License-Identifier: MIT
"""Generalised k-means against the procedure of its source: a Python loss per point, BFGS on the summed loss.

Both start from the same centres and stop when no point changes its cluster. Axes: N points, M clusters, D dimensions.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.pairing import Skipped

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
    """Non-negative heavy-tailed numbers in a few overlapping groups, like pooled activations: (n, dim) float64.

    Args:
        n: rows.
        dim: numbers in a row.
        groups: how many groups.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    levels = random.gamma(2.0, 1.0, (groups, dim))
    return np.abs(levels[np.arange(n) % groups] + random.standard_t(3, (n, dim)))


def source_procedure(loss: PointLoss, points_ND: np.ndarray, centres_MD: np.ndarray) -> tuple[float, float]:
    """Clusters point by point, with scipy's BFGS and its numerical gradient for the centres.

    Args:
        loss: of one point against one centre.
        points_ND: the points.
        centres_MD: first centres.

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


def records(repeats: int = 20, losses: tuple[str, ...] = tuple(POINT_LOSSES), dim: int = 512) -> Iterator[dict]:
    """Two measurements per loss for k = 3 on 180 points: wall clock, and the objective that it bought.

    Args:
        repeats: fits of ours, of which the median counts; the source's procedure takes about a minute and runs once.
        losses: which of the four numerical losses.
        dim: D.
    """
    points_ND = features(dim=dim)
    first_MD = points_ND[np.random.default_rng(1).choice(len(points_ND), 3, replace=False)]
    for name in losses:
        estimator = GeneralisedKMeans(3, loss=name, delta=DELTA, sigma=SIGMA, epsilon=EPSILON, init=first_MD)
        estimator.fit(points_ND)  # the first call pays for imports and allocations
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            estimator.fit(points_ND)
            seconds.append(time.perf_counter() - start)
        objective, their_seconds = source_procedure(POINT_LOSSES[name], points_ND, first_MD)
        common = {"classes": 3, "batch": len(points_ND), "precision": "float64", "against": "BFGS on a per-point loss"}
        yield {
            "name": f"image clustering, {name}",
            **common,
            "ratio": their_seconds / float(np.median(seconds)),
            "ratio_min": their_seconds / max(seconds),
            "ratio_max": their_seconds / min(seconds),
            "unit": "s",
            "ours": float(np.median(seconds)),
            "theirs": their_seconds,
        }
        gain = objective / estimator.inertia_
        yield {
            "name": f"image clustering, {name}, objective",
            **common,
            "ratio": gain,
            "ratio_min": gain,
            "ratio_max": gain,
            "unit": "summed loss",
            "ours": estimator.inertia_,
            "theirs": objective,
        }


class ImageClusteringBenchmark(Group):
    """The records of this file as a group of the suite.

    Args:
        repeats, losses, dim: see `records`.
    """

    def __init__(self, repeats: int = 20, losses: Sequence[str] = tuple(POINT_LOSSES), dim: int = 512):
        self.repeats, self.losses, self.dim = repeats, tuple(losses), dim

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        return records(self.repeats, self.losses, self.dim)
