# SPDX-License-Identifier: MIT
"""One clustering per loss, with clusters numbered alike. Axes: N images, D features, M clusters."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix

from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans


@dataclass(frozen=True)
class Fit:
    """A clustering under one loss."""

    labels_N: np.ndarray  # (N,) clusters in [0, M), numbered as those of the first loss that share most pictures
    representative_M: np.ndarray  # (M,) row of the member nearest the centre
    objective: float  # the summed loss
    n_iter: int  # assignments until no point changed its cluster
    seconds: float  # wall clock of all seedings

    def sizes(self) -> np.ndarray:
        """(M,) pictures per cluster."""
        return np.bincount(self.labels_N, minlength=len(self.representative_M))


def estimators_of(cfg: DictConfig) -> dict[str, GeneralisedKMeans]:
    """One estimator per loss asked for; refuses none, an unknown one, and values out of range."""
    options = {key: cfg[key] for key in ("delta", "sigma", "epsilon", "scale", "n_init", "max_iter")}
    estimators = {loss: GeneralisedKMeans(loss=loss, random_state=cfg.seed, **options) for loss in cfg.losses}
    for estimator in estimators.values():
        estimator.check_parameters()
    return estimators


def fit_losses(features_ND: np.ndarray, k: int, estimators: Mapping[str, GeneralisedKMeans]) -> dict[str, Fit]:
    """Clusters the same features, (N, D), under each loss, in the order given."""
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
    """Matches the clusters of two clusterings one to one, so that matched clusters share most images.

    Returns for each cluster of the reference its partner in `labels_N`, (M,).
    """
    shared_MM = confusion_matrix(reference_N, labels_N, labels=np.arange(m))
    return linear_sum_assignment(-shared_MM)[1]


def representatives(fitted: GeneralisedKMeans, features_ND: np.ndarray) -> np.ndarray:
    """The member of each cluster with the least loss against its centre: (M,) rows of the (N, D) features."""
    losses_N = fitted.losses(features_ND)
    members = (np.flatnonzero(fitted.labels_ == cluster) for cluster in range(len(fitted.cluster_centers_)))
    return np.array([rows[losses_N[rows].argmin()] for rows in members])
