# SPDX-License-Identifier: MIT
"""K-means under a loss of choice, as a scikit-learn estimator and as a partitioner.

Axes: N samples (or K identities), D dimensions, M clusters.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from datamodules.errors import InputError
from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.centre_losses import LOSSES, CentreLoss, Square, row_blocks


class GeneralisedKMeans(ClusterMixin, BaseEstimator):
    """Clusters points around M centres so that the summed loss against their own centre is small.

    The objective is sum_n sum_d rho(x_nd - mu_c(n)d): the loss rho is taken per coordinate, so the square loss gives
    the mean and the absolute loss the median of each coordinate. Points go to the centre of least loss and centres to
    the minimiser of the summed loss, in turn; neither raises the objective. With r = x - mu:

    ====================  ==========================================================  ==============================
    `loss`                rho(r)                                                      centre
    ====================  ==========================================================  ==============================
    square                r^2                                                         mean
    absolute              abs(r)                                                      median
    huber                 r^2 / 2 up to delta, delta (abs(r) - delta / 2) beyond      re-weighted means
    pseudo_huber          delta^2 (sqrt(1 + (r / delta)^2) - 1)                       re-weighted means
    correntropy           1 - exp(-r^2 / (2 sigma^2))                                 re-weighted means, local
    epsilon_insensitive   max(0, abs(r) - epsilon)                                    median of x - epsilon, x + epsilon
    ====================  ==========================================================  ==============================

    Args:
        n_clusters: M, 1 <= M <= N.
        loss: one of the names above, or a `CentreLoss`.
        delta: length of the two Huber losses, > 0; ignored by the others. 1.345 keeps 95 % of the mean's efficiency
            on normal residuals of deviation 1 (Huber, "Robust Statistics", 1981).
        sigma: kernel width of correntropy, > 0; ignored by the others.
        epsilon: free zone of epsilon_insensitive, >= 0; ignored by the others.
        scale: factor of delta, sigma and epsilon: a number, or "std" for the root mean square over all features of
            their standard deviations, so that the three are multiples of the data's own spread.
        init: "k-means++" (points drawn in proportion to their loss, each the best of 2 + ln M draws) or an (M, D) array
            of first centres.
        n_init: how many seedings to try; the fit of least objective stays. 1 where `init` is an array.
        tol: a fit ends once the centres move by less than this share of the features' spread (root mean square), or
            when no point changes its cluster and the centres are exact.
        random_state: seed of the seeding, as in scikit-learn.

    Attributes:
        cluster_centers_: (M, D), in the dtype of the data.
        labels_: (N,) int32 in [0, M); every cluster has a member, also where points coincide.
        inertia_: the objective.
        objective_history_: the objective after every assignment of the fit that stayed; never rising.
        n_iter_: the number of its assignments.
        scale_: the factor of delta, sigma and epsilon that was used.

    >>> points = [[0.0], [1.0], [40.0], [100.0], [102.0]]
    >>> GeneralisedKMeans(n_clusters=2, loss="absolute", init=[[0.0], [100.0]]).fit(points).cluster_centers_.tolist()
    [[1.0], [101.0]]
    """

    def __init__(
        self,
        n_clusters=8,
        *,
        loss="square",
        delta=1.345,
        sigma=1.0,
        epsilon=0.5,
        scale=1.0,
        init="k-means++",
        n_init=1,
        max_iter=300,
        tol=1e-4,
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.loss = loss
        self.delta = delta
        self.sigma = sigma
        self.epsilon = epsilon
        self.scale = scale
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X, y=None):
        """Finds centres and labels.

        Args:
            X: (N, D) float32 or float64; other numbers are converted to float64.

        Raises:
            InputError: parameters out of range, or fewer samples than clusters.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), order="C")
        if not 1 <= self.n_clusters <= len(X):
            raise InputError(
                f"n_clusters = {self.n_clusters} for n_samples = {len(X)}", f"1 to {len(X)}", "set n_clusters"
            )
        self.check_parameters()
        random = check_random_state(self.random_state)
        spread = float(np.sqrt(X.var(axis=0, dtype=np.float64).mean()))
        self.scale_ = self._resolve_scale(spread)
        self._loss = self._resolve_loss(self.scale_)
        n_init = self.n_init if isinstance(self.init, str) else 1
        fits = [self._fit_once(X, self._first_centres(X, random), self.tol * spread) for _ in range(n_init)]
        centres, self.labels_, self.objective_history_ = min(fits, key=lambda one: one[2][-1])
        self.cluster_centers_ = centres.astype(X.dtype)
        self.inertia_ = self.objective_history_[-1]
        self.n_iter_ = len(self.objective_history_)
        return self

    def check_parameters(self):
        """Refuses what no data could make right, so that nobody waits for features first.

        Raises:
            InputError: an unknown loss, a length, scale or count out of range.
        """
        if self.max_iter < 1 or self.n_init < 1:
            raise InputError(f"max_iter = {self.max_iter}, n_init = {self.n_init}", "both at least 1", "set them")
        scale = self._resolve_scale(1.0)
        if not (np.isfinite(scale) and scale > 0):
            raise InputError(f"scale = {scale:g}", "a finite number > 0, or 'std'", "set scale")
        self._resolve_loss(1.0)

    def predict(self, X):
        """The centre of least loss for every point of (N, D): (N,) int32; ties go to the first."""
        return self._against_centres(X)[0]

    def losses(self, X):
        """Summed loss of every point of (N, D) against the centre that is nearest to it: (N,) float64."""
        return self._against_centres(X)[1]

    def _against_centres(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), order="C", reset=False)
        return _nearest(self._loss, X, self.cluster_centers_)

    def _resolve_scale(self, spread: float) -> float:
        if isinstance(self.scale, str):
            if self.scale != "std":
                raise InputError(f"scale = {self.scale!r}", "a finite number > 0, or 'std'", "set scale")
            return spread or 1.0
        return float(self.scale)

    def _resolve_loss(self, scale: float) -> CentreLoss:
        if isinstance(self.loss, CentreLoss):
            return self.loss
        if self.loss not in LOSSES:
            raise InputError(f"loss = {self.loss!r}", f"one of {', '.join(LOSSES)}", "name one of them")
        kind, lengths = LOSSES[self.loss]
        return kind(*(getattr(self, name) * scale for name in lengths))

    def _first_centres(self, X: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        if isinstance(self.init, str):
            if self.init != "k-means++":
                raise InputError(f"init = {self.init!r}", "'k-means++' or an array of centres", "set init")
            return _plus_plus(self._loss, X, self.n_clusters, random).astype(np.float64)
        centres = np.array(self.init, dtype=np.float64)
        if centres.shape != (self.n_clusters, X.shape[1]) or not np.isfinite(centres).all():
            got = f"init of shape {centres.shape}"
            raise InputError(got, f"({self.n_clusters}, {X.shape[1]}) finite numbers", "pass one row per cluster")
        return centres

    def _fit_once(self, X: np.ndarray, centres_MD: np.ndarray, least_move: float):
        labels = np.full(len(X), -1, np.int32)
        history: list[float] = []
        while True:
            former, (labels, losses_N) = labels, _nearest(self._loss, X, centres_MD.astype(X.dtype))
            labels, centres_MD = _fill_empty(X, labels, losses_N, centres_MD)
            history.append(float(losses_N.sum()))
            if len(history) == self.max_iter or (self._loss.exact and np.array_equal(labels, former)):
                return centres_MD, labels, history
            moved_MD = self._centres(X, labels, centres_MD)
            move = float(np.sqrt(np.square(moved_MD - centres_MD).mean()))
            if len(history) > 1 and np.array_equal(labels, former) and move <= least_move:
                return centres_MD, labels, history
            centres_MD = moved_MD

    def _centres(self, X: np.ndarray, labels: np.ndarray, centres_MD: np.ndarray) -> np.ndarray:
        order = np.argsort(labels, kind="stable")
        bounds = np.searchsorted(labels[order], np.arange(len(centres_MD) + 1))
        members = (X[order[bounds[j] : bounds[j + 1]]] for j in range(len(centres_MD)))
        return np.stack([self._loss.centre(one, centre) for one, centre in zip(members, centres_MD, strict=True)])


def _nearest(loss: CentreLoss, X: np.ndarray, centres_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the centre of least loss and that loss, for every point."""
    if isinstance(loss, Square):
        return _nearest_square(loss, X, centres_MD)
    labels, least_N = np.zeros(len(X), np.int32), np.full(len(X), np.inf)
    for j, centre_D in enumerate(centres_MD):
        losses_N = loss.to_centre(X, centre_D)
        closer = losses_N < least_N
        labels[closer], least_N[closer] = j, losses_N[closer]
    return labels, least_N


def _nearest_square(loss: Square, X: np.ndarray, centres_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # The expanded square x^2 - 2 x c + c^2 is one matrix product but loses digits far from the origin: it only
    # chooses the centre, around a common origin; the loss is then computed as it is defined.
    labels, least_N = np.empty(len(X), np.int32), np.empty(len(X))
    origin_D = centres_MD.mean(axis=0)
    for rows in row_blocks(*X.shape):
        labels[rows] = euclidean_distances(X[rows] - origin_D, centres_MD - origin_D, squared=True).argmin(axis=1)
        least_N[rows] = loss.value(X[rows] - centres_MD[labels[rows]]).sum(axis=1, dtype=np.float64)
    return labels, least_N


def _fill_empty(X, labels, losses_N, centres_MD):
    """Gives every empty cluster the point of greatest loss in a cluster of two or more, and sets its centre there.

    That point's loss falls to zero, so the objective does not rise. `losses_N` is brought up to date in place.
    """
    sizes = np.bincount(labels, minlength=len(centres_MD))
    if sizes.all():
        return labels, centres_MD
    labels, centres_MD = labels.copy(), centres_MD.copy()
    farthest_first = iter(np.argsort(-losses_N, kind="stable"))
    for empty in np.flatnonzero(sizes == 0):
        point = next(n for n in farthest_first if sizes[labels[n]] > 1)
        sizes[labels[point]] -= 1
        labels[point], centres_MD[empty], losses_N[point] = empty, X[point], 0.0
    return labels, centres_MD


def _plus_plus(loss: CentreLoss, X: np.ndarray, m: int, random: np.random.RandomState) -> np.ndarray:
    """k-means++ (Arthur & Vassilvitskii, SODA 2007) with the loss in place of the squared distance, greedily."""
    n_trials = 2 + int(np.log(m))
    chosen = [int(random.randint(len(X)))]
    least_N = loss.to_centre(X, X[chosen[0]])
    free = np.ones(len(X), bool)
    free[chosen] = False
    for _ in range(1, m):
        mass = np.where(free, least_N, 0)
        # All points lie on centres already: any free point serves.
        mass = mass if mass.sum() > 0 else free.astype(np.float64)
        cumulative = np.cumsum(mass)
        draws = np.searchsorted(cumulative, random.uniform(size=n_trials) * cumulative[-1], side="right")
        trials = [int(n) for n in np.unique(np.minimum(draws, np.flatnonzero(mass)[-1]))]
        candidates = [np.minimum(least_N, loss.to_centre(X, X[n])) for n in trials]
        best = int(np.argmin([one.sum() for one in candidates]))
        least_N = candidates[best]
        chosen.append(trials[best])
        free[trials[best]] = False
    return X[chosen]


class GeneralisedKMeansPartitioner(Partitioner):
    """`GeneralisedKMeans` over class means.

    Args:
        loss: square, absolute, huber, pseudo_huber, correntropy or epsilon_insensitive, taken per coordinate.
        delta: length of the two Huber losses, times `scale`.
        sigma: kernel width of correntropy, times `scale`.
        epsilon: free zone of epsilon_insensitive, times `scale`.
        scale: a number, or "std" for the spread of the class means themselves.
        tol: least move of the centres, as a share of the spread.
    """

    def __init__(
        self,
        loss: str = "square",
        delta: float = 1.345,
        sigma: float = 1.0,
        epsilon: float = 0.5,
        scale: float | str = "std",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
    ):
        self.loss, self.delta, self.sigma, self.epsilon, self.scale = loss, delta, sigma, epsilon, scale
        self.n_init, self.max_iter, self.tol = n_init, max_iter, tol

    def assign(self, class_means_KD, m, seed):
        estimator = GeneralisedKMeans(n_clusters=m, random_state=seed, **vars(self))
        return estimator.fit(class_means_KD).labels_
