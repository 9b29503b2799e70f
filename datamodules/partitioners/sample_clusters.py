# SPDX-License-Identifier: MIT
"""Clusters of samples instead of class means.

Axes: N samples, K identities, D embedding dimension, M clusters, P pairs of an identity and a cluster that share
samples.
"""

import logging

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from datamodules.class_means import normalise_rows
from datamodules.errors import InputError
from datamodules.partitioners.kmeans import KMeansPartitioner, fill_empty
from datamodules.partitioners.samples import TrainingSamples

logger = logging.getLogger(__name__)


class SampleClustersPartitioner(KMeansPartitioner):
    """K-means on the training samples; `rule` says to which clusters an identity belongs whose samples are in several.

    These are the paper's ways (2) to (4); way (1) is `KMeansPartitioner`. The home cluster has most of the identity's
    samples; of equal counts, the centre nearest to the class mean. A cluster that is no identity's home takes the
    identity whose class mean is farthest from its centre.

    Args:
        rule: "majority": the home cluster; "any": every cluster with a sample of the identity; "share": every cluster
            with more than `threshold` of its samples.
        threshold: share of an identity's samples, in [0, 1); only used by "share".
        max_samples: samples, at most, that the centres are found on, drawn at random; every sample is assigned.
    """

    needs_samples = True

    def __init__(
        self, rule: str = "share", threshold: float = 0.2, max_samples: int = 1_000_000, n_init: int = 1,
        max_iter: int = 100, faiss_above: int = 100_000,
    ):  # fmt: skip
        super().__init__(n_init, max_iter, faiss_above)
        if rule not in ("majority", "any", "share"):
            raise InputError(f"rule = {rule!r}", "'majority', 'any' or 'share'", "correct partitioner.rule")
        if not 0 <= threshold < 1:
            raise InputError(f"threshold = {threshold}", "a share from 0 to below 1", "correct partitioner.threshold")
        self.rule, self.threshold, self.max_samples = rule, threshold, max_samples

    def memberships(
        self, class_means_KD: np.ndarray, m: int, seed: int, samples: TrainingSamples | None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert samples is not None, "`needs_samples`: the caller sees to it"
        drawn_ND, _ = samples.drawn(self.max_samples, seed)
        if len(drawn_ND) < m:
            raise InputError(f"{len(drawn_ND)} samples for m = {m} clusters", "at least m", "lower n_subnets")
        if len(drawn_ND) < len(samples):
            logger.info("centres of samples: found on %d of %d samples", len(drawn_ND), len(samples))
        centres_MD = centres_of(drawn_ND, self.assign(drawn_ND, m, seed), m)

        keys = [pairwise_distances_argmin(rows, centres_MD) + np.int64(m) * labels for rows, labels in samples.blocks()]
        key_P, count_P = np.unique(np.concatenate(keys), return_counts=True)
        identity_P, cluster_P = np.divmod(key_P, m)

        to_mean_P = np.linalg.norm(normalise_rows(class_means_KD)[identity_P] - centres_MD[cluster_P], axis=1)
        order = np.lexsort((to_mean_P, -count_P, identity_P))
        first = order[np.r_[True, np.diff(identity_P[order]) > 0]]
        home, distance = cluster_P[first], to_mean_P[first]  # the datamodules enrol nobody without a training sample
        home = fill_empty(home, distance, m)

        total_K = np.bincount(identity_P, weights=count_P, minlength=len(home))
        share = {"majority": np.inf, "any": 0.0, "share": self.threshold}[self.rule]
        least_P = share * total_K[identity_P]
        beside = (count_P > least_P) & (cluster_P != home[identity_P])
        return home, np.stack([identity_P[beside], cluster_P[beside]], axis=1)


def centres_of(points_ND: np.ndarray, cluster_of: np.ndarray, m: int) -> np.ndarray:
    """Mean of the points of each of m clusters, none empty: (M, D) float32."""
    order = np.argsort(cluster_of, kind="stable")
    starts = np.searchsorted(cluster_of[order], np.arange(m))
    sums = np.add.reduceat(points_ND[order], starts, axis=0, dtype=np.float64)
    return (sums / np.bincount(cluster_of, minlength=m)[:, None]).astype(np.float32)
