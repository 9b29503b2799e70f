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
from experiments.benchmarks.measurement import Taken, record, seconds

DELTA, SIGMA, EPSILON = 1.345, 1.0, 0.5  # as in GeneralisedKMeans, in units of the features
BFGS_ITERATIONS = 20

PointLoss = Callable[[np.ndarray, np.ndarray], float]


def _huber(x_D: np.ndarray, mu_D: np.ndarray) -> float:
    size = np.abs(x_D - mu_D)
    return np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum()


POINT_LOSSES: dict[str, PointLoss] = {
    "huber": _huber,
    "pseudo_huber": lambda x_D, mu_D: (DELTA**2 * (np.sqrt(1 + ((x_D - mu_D) / DELTA) ** 2) - 1)).sum(),
    "correntropy": lambda x_D, mu_D: (1 - np.exp(-((x_D - mu_D) ** 2) / (2 * SIGMA**2))).sum(),
    "epsilon_insensitive": lambda x_D, mu_D: np.maximum(0, np.abs(x_D - mu_D) - EPSILON).sum(),
}


def features(n: int = 180, dim: int = 512, groups: int = 3, seed: int = 0) -> np.ndarray:
    """(n, dim) non-negative heavy-tailed numbers in a few overlapping groups, like pooled activations."""
    random = np.random.default_rng(seed)
    levels = random.gamma(2.0, 1.0, (groups, dim))
    return np.abs(levels[np.arange(n) % groups] + random.standard_t(3, (n, dim)))


def source_procedure(loss: PointLoss, points_ND: np.ndarray, centres_MD: np.ndarray) -> tuple[float, float]:
    """The objective and the seconds of clustering point by point, by scipy's BFGS with its numerical gradient."""
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
                    lambda centre, members: sum(loss(point, centre) for point in members), centres[j], (members,),
                    "BFGS", options={"maxiter": BFGS_ITERATIONS},
                ).x  # fmt: skip


@dataclass
class ImageClusteringBenchmark(Group):
    """Two measurements per loss for k = 3 on 180 points: wall clock, and the objective that it reached."""

    repeats: int = 20  # fits of ours; the source's procedure takes about a minute and runs once
    losses: Sequence[str] = tuple(POINT_LOSSES)
    dim: int = 512

    def measure(self, bench: Bench | None = None) -> Iterator[dict[str, Any]]:
        points_ND = features(dim=self.dim)
        first_MD = points_ND[np.random.default_rng(1).choice(len(points_ND), 3, replace=False)]
        common = (3, len(points_ND), "float64", "BFGS on a per-point loss")
        for name in self.losses:
            estimator = GeneralisedKMeans(3, loss=name, delta=DELTA, sigma=SIGMA, epsilon=EPSILON, init=first_MD)
            estimator.fit(points_ND)  # the first call pays for imports and allocations
            ours = Taken(tuple(seconds(partial(estimator.fit, points_ND)) for _ in range(self.repeats)))
            objective, their_seconds = source_procedure(POINT_LOSSES[name], points_ND, first_MD)
            theirs = Taken((their_seconds,) * self.repeats)
            yield record(f"image clustering, {name}", *common, "s", ours, theirs)
            ours, theirs = Taken((estimator.inertia_,)), Taken((objective,))
            yield record(f"image clustering, {name}, objective", *common, "summed loss", ours, theirs)
