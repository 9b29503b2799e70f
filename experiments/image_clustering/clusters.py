# SPDX-License-Identifier: MIT
"""What a clustering of images found: clusters in a common order, representatives, agreement.

Axes: N images, D features, M clusters.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans


def in_common_order(labels_N: np.ndarray, reference_N: np.ndarray) -> np.ndarray:
    """The order of clusters in which they share most images with those of a reference, one to one.

    Args:
        labels_N: in [0, M).
        reference_N: in [0, M).

    Returns:
        (M,): which cluster of `labels_N` stands in the place of each cluster of the reference.
    """
    m = int(max(labels_N.max(), reference_N.max())) + 1
    shared_MM = confusion_matrix(reference_N, labels_N, labels=np.arange(m))
    return linear_sum_assignment(-shared_MM)[1]


def representatives(fitted: GeneralisedKMeans, features_ND: np.ndarray) -> np.ndarray:
    """The member of each cluster with the least loss against its centre: (M,) rows.

    Args:
        fitted: on these features.
        features_ND: what it was fitted on.
    """
    losses_N = fitted.losses(features_ND)
    return np.array([_least(losses_N, fitted.labels_ == cluster) for cluster in range(len(fitted.cluster_centers_))])


def purity(labels_N: np.ndarray, truth_N: np.ndarray) -> float:
    """Share of images in the most frequent class of their cluster, in [0, 1].

    Args:
        labels_N: clusters.
        truth_N: classes.
    """
    return float(confusion_matrix(truth_N, labels_N).max(axis=0).sum() / len(labels_N))


def agreement(labels: Mapping[str, np.ndarray], truth_N: np.ndarray | None = None) -> pd.DataFrame:
    """How far any two clusterings agree, and each with the classes where these are known.

    Args:
        labels: from the name of a loss to (N,) clusters.
        truth_N: classes, or None.

    Returns:
        Columns first, second, adjusted_rand (1 same, 0 as by chance), nmi (1 same, 0 independent).
    """
    named = dict(labels) if truth_N is None else {**labels, "classes": truth_N}
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "adjusted_rand": adjusted_rand_score(named[first], named[second]),
            "nmi": normalized_mutual_info_score(named[first], named[second]),
        }
        for first, second in combinations(named, 2)
    )


def _least(losses_N: np.ndarray, member_N: np.ndarray) -> int:
    rows = np.flatnonzero(member_N)
    return int(rows[losses_N[rows].argmin()])
