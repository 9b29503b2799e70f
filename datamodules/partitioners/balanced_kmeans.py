# SPDX-License-Identifier: MIT
"""K-means with bounded cluster sizes at any number of identities.

Axes: K identities, D embedding dimension, M clusters, T nearest clusters of an identity.
"""

import logging
import os

import numpy as np

from datamodules.partitioners.kmeans import KMeansPartitioner
from datamodules.partitioners.size_constrained import SizeConstrainedKMeans
from datamodules.partitioners.soft_overlap import centres_of, distances

logger = logging.getLogger(__name__)

NEAREST = 16  # clusters an identity may be moved to by prices; the final repair looks at all of them


class BalancedKMeansPartitioner(SizeConstrainedKMeans):
    """Lloyd's algorithm with a price for each cluster in the assignment step, so that sizes stay within bounds.

    An identity goes to the cluster of least squared distance plus price. The price of a too large cluster rises until
    the excess prefers others, that of a too small one falls until enough identities prefer it (coordinate ascent on the
    dual of the transportation problem, as in Bertsekas' auction algorithm, Annals of Operations Research 14, 1988).
    Single moves, the cheapest first, then make the bounds exact; the sum of squared distances is close to the least.

    Args:
        smallest: least size of a cluster, as a share of K / m, in [0, 1].
        largest: largest size, as a multiple of K / m, at least 1.
        n_init: starts; only used by the exact method.
        sweeps: passes over all prices in an iteration.
        exact_below: number of identities below which `SizeConstrainedKMeans` is used; its time grows too fast above.
    """

    def __init__(
        self, smallest: float = 0.5, largest: float = 1.5, n_init: int = 1, max_iter: int = 20, sweeps: int = 20,
        exact_below: int = 20_000,
    ):  # fmt: skip
        super().__init__(smallest, largest, n_init, max_iter)
        self.sweeps, self.exact_below = sweeps, exact_below

    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        if len(class_means_KD) < self.exact_below:
            return super().assign(class_means_KD, m, seed)
        points = np.ascontiguousarray(class_means_KD, dtype=np.float32)
        low, high = self.bounds(len(points), m)
        cluster_of = KMeansPartitioner(max_iter=self.max_iter).assign(points, m, seed)
        price_M = np.zeros(m, np.float32)
        for _ in range(self.max_iter):
            centres_MD = centres_of(points, cluster_of, m)
            squared_KT, cluster_KT = nearest_centres(points, centres_MD, min(NEAREST, m))
            found, price_M = with_prices(squared_KT, cluster_KT, price_M, low, high, self.sweeps)
            former, cluster_of = cluster_of, repair(found, points, centres_MD, low, high)
            if np.array_equal(former, cluster_of):
                break
        sizes = np.bincount(cluster_of, minlength=m)
        logger.info("balanced k-means: sizes %d to %d", sizes.min(), sizes.max())
        return cluster_of


def nearest_centres(points_KD: np.ndarray, centres_MD: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances to the t <= M nearest centres, ascending, and which they are: (K, T) float32, (K, T) int64."""
    import faiss

    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    index = faiss.IndexFlatL2(points_KD.shape[1])
    index.add(centres_MD)
    return index.search(points_KD, t)


def with_prices(
    squared_KT: np.ndarray, cluster_KT: np.ndarray, price_M: np.ndarray, low: int, high: int, sweeps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of least squared distance plus price, (K,) int64, and the (M,) prices that bring sizes near the bounds.

    Starts from `price_M`, which does not change, and passes over all clusters `sweeps` times at most.
    """
    k, t = squared_KT.shape
    price_M = price_M.copy()
    # Places (identity, candidate) in the order of the clusters: a sweep reads each once.
    order = np.argsort(cluster_KT, axis=None, kind="stable")
    starts = np.searchsorted(cluster_KT.ravel()[order], np.arange(len(price_M) + 1))
    for _ in range(sweeps):
        choice_K = (squared_KT + price_M[cluster_KT]).argmin(axis=1)
        sizes_M = np.bincount(cluster_KT[np.arange(k), choice_K], minlength=len(price_M))
        wrong = np.flatnonzero((sizes_M < low) | (sizes_M > high))
        if not len(wrong):
            break
        for cluster in wrong[np.argsort(-np.abs(sizes_M[wrong] - np.clip(sizes_M[wrong], low, high)))]:
            identity, place = np.divmod(order[starts[cluster] : starts[cluster + 1]], t)
            cost = squared_KT[identity] + price_M[cluster_KT[identity]]
            own = cost[np.arange(len(identity)), place]
            cost[np.arange(len(identity)), place] = np.inf
            lead = np.sort(cost.min(axis=1) - own)[::-1]  # > 0: prefers this cluster, by so much
            size = int((lead > 0).sum())
            if size > high:
                price_M[cluster] += _between(lead, high)
            elif size < low and len(lead) > low:
                price_M[cluster] += _between(lead, low)
    return cluster_KT[np.arange(k), (squared_KT + price_M[cluster_KT]).argmin(axis=1)], price_M


def _between(descending: np.ndarray, n: int) -> float:
    # The price at which n places prefer the cluster: between the lead of the last of them and of the next.
    return float(descending[n - 1] + descending[n]) / 2


def repair(cluster_of: np.ndarray, points_KD: np.ndarray, centres_MD: np.ndarray, low: int, high: int) -> np.ndarray:
    """Moves single identities, the cheapest first, until low <= size <= high: (K,) int64 clusters.

    Needs low M <= K <= high M.
    """
    cluster_of = cluster_of.astype(np.int64)
    sizes = np.bincount(cluster_of, minlength=len(centres_MD))

    def move(identity: int, target: int) -> None:
        sizes[cluster_of[identity]] -= 1
        sizes[target] += 1
        cluster_of[identity] = target

    for cluster in np.flatnonzero(sizes > high):
        while sizes[cluster] > high:  # again, if targets filled up
            members = np.flatnonzero(cluster_of == cluster)
            squared = distances(points_KD[members], centres_MD) ** 2
            rise = np.where(sizes < high, squared - squared[:, [cluster]], np.inf)
            target = rise.argmin(axis=1)
            for i in np.argsort(rise.min(axis=1), kind="stable"):
                if sizes[cluster] > high and sizes[target[i]] < high:
                    move(int(members[i]), int(target[i]))
    for cluster in np.flatnonzero(sizes < low):
        others = np.flatnonzero(cluster_of != cluster)
        own = ((points_KD[others] - centres_MD[cluster_of[others]]) ** 2).sum(axis=1)
        rise = ((points_KD[others] - centres_MD[cluster]) ** 2).sum(axis=1) - own
        for identity in others[np.argsort(rise, kind="stable")]:
            if sizes[cluster] < low and sizes[cluster_of[identity]] > low:
                move(int(identity), int(cluster))
    return cluster_of
