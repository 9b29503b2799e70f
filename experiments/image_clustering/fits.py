# SPDX-License-Identifier: MIT
"""One clustering per loss, their clusters numbered alike.

Axes: N images, D features, M clusters.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix

from datamodules.errors import InputError
from datamodules.partitioners.generalised_kmeans import LOSSES, GeneralisedKMeans
from datamodules.sources.base import Source


@dataclass(frozen=True)
class Fit:
    """A clustering under one loss.

    Attributes:
        labels_N: (N,) clusters in [0, M), numbered as those of the first loss that they share most pictures with.
        representative_M: (M,) row of the member nearest its centre, of each cluster.
        objective: the summed loss.
        n_iter: assignments until it stood still.
        seconds: wall clock of all seedings.
    """

    labels_N: np.ndarray
    representative_M: np.ndarray
    objective: float
    n_iter: int
    seconds: float

    def sizes(self) -> np.ndarray:
        """Pictures per cluster: (M,)."""
        return np.bincount(self.labels_N, minlength=len(self.representative_M))


def estimators_of(cfg: DictConfig) -> dict[str, GeneralisedKMeans]:
    """One estimator per loss asked for.

    Raises:
        InputError: no loss, one that does not exist, or values out of range.
    """
    if not cfg.losses or not set(cfg.losses) <= set(LOSSES):
        raise InputError(f"losses = {list(cfg.losses)}", f"some of {', '.join(LOSSES)}", "set losses")
    lengths = {key: cfg[key] for key in ("delta", "sigma", "epsilon", "scale")}
    search = {"n_init": cfg.n_init, "max_iter": cfg.max_iter, "random_state": cfg.seed}
    estimators = {loss: GeneralisedKMeans(loss=loss, **lengths, **search) for loss in cfg.losses}
    for estimator in estimators.values():
        estimator.check_parameters()
    return estimators


def check_clusters(k: int | None, source: Source) -> None:
    """Refuses a number of clusters before features are extracted, which may take hours.

    Raises:
        InputError: no cluster, or more of them than photographs.
    """
    count = len(source.listing())
    if k is not None and not 1 <= k <= count:
        raise InputError(f"k = {k} for {count} photographs", f"1 to {count}, or null for the sub-folders", "set k")


def fit_losses(features_ND: np.ndarray, k: int, estimators: Mapping[str, GeneralisedKMeans]) -> dict[str, Fit]:
    """Clusters the same features under each loss, in the order given."""
    fits: dict[str, Fit] = {}
    for loss, estimator in estimators.items():
        start = time.perf_counter()
        fitted = estimator.set_params(n_clusters=k).fit(features_ND)
        seconds = time.perf_counter() - start
        first = next(iter(fits.values())).labels_N if fits else fitted.labels_
        order_M = in_common_order(fitted.labels_, first, k)
        labels_N = np.argsort(order_M)[fitted.labels_].astype(np.int32)
        chosen_M = representatives(fitted, features_ND)[order_M]
        fits[loss] = Fit(labels_N, chosen_M, fitted.inertia_, fitted.n_iter_, seconds)
    return fits


def in_common_order(labels_N: np.ndarray, reference_N: np.ndarray, m: int) -> np.ndarray:
    """The order of clusters in which they share most images with those of a reference, one to one.

    Returns:
        (M,): which cluster of `labels_N` stands in the place of each cluster of the reference.
    """
    shared_MM = confusion_matrix(reference_N, labels_N, labels=np.arange(m))
    return linear_sum_assignment(-shared_MM)[1]


def representatives(fitted: GeneralisedKMeans, features_ND: np.ndarray) -> np.ndarray:
    """The member of each cluster with the least loss against its centre: (M,) rows."""
    losses_N = fitted.losses(features_ND)
    members = (np.flatnonzero(fitted.labels_ == cluster) for cluster in range(len(fitted.cluster_centers_)))
    return np.array([rows[losses_N[rows].argmin()] for rows in members])
