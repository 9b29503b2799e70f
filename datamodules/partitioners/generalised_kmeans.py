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
from datamodules.partitioners.kmeans import fill_empty


class GeneralisedKMeans(ClusterMixin, BaseEstimator):
    """K-means with another loss than the squared distance.

    The objective is sum_n sum_d rho(x_nd - mu_c(n)d), the loss rho taken per coordinate. Each step assigns points to
    the centre of least loss, then moves centres to lower the summed loss: the objective never rises. The formulas are
    in `datamodules.partitioners.centre_losses`.

    Args:
        n_clusters: M, 1 <= M <= N.
        loss: square, absolute, huber, pseudo_huber, correntropy, epsilon_insensitive, or a `CentreLoss`.
        delta: length of the two Huber losses, > 0. 1.345 keeps 95 % of the mean's efficiency on normal residuals of
            deviation 1 (Huber, "Robust Statistics", 1981).
        sigma: kernel width of correntropy, > 0.
        epsilon: free zone of epsilon_insensitive, >= 0.
        scale: factor of delta, sigma and epsilon: a number, or "std" for the root mean square of the features' standard
            deviations.
        init: "k-means++" (points drawn in proportion to their loss, each the best of 2 + ln M) or an (M, D) array.
        n_init: seedings, of which the fit with the least objective is kept. 1 if `init` is an array.
        tol: a fit ends when the centres move by less than this share of the features' spread (root mean square), or
            when no point changes its cluster and the centres are exact.

    Attributes:
        cluster_centers_: (M, D), in the dtype of the data.
        labels_: (N,) int32 in [0, M); every cluster has a member, even if points coincide.
        inertia_: the objective.
        objective_history_: the objective after every assignment of the best fit.
        n_iter_: number of its assignments.
        scale_: the factor that was used.

    >>> points = [[0.0], [1.0], [40.0], [100.0], [102.0]]
    >>> GeneralisedKMeans(n_clusters=2, loss="absolute", init=[[0.0], [100.0]]).fit(points).cluster_centers_.tolist()
    [[1.0], [101.0]]
    """

    def __init__(
        self, n_clusters=8, *, loss="square", delta=1.345, sigma=1.0, epsilon=0.5, scale=1.0, init="k-means++",
        n_init=1, max_iter=300, tol=1e-4, random_state=None,
    ):  # fmt: skip
        self.n_clusters, self.init, self.n_init, self.random_state = n_clusters, init, n_init, random_state
        self.loss, self.delta, self.sigma, self.epsilon, self.scale = loss, delta, sigma, epsilon, scale
        self.max_iter, self.tol = max_iter, tol

    def fit(self, X, y=None):
        """Finds centres and labels.

        Args:
            X: (N, D) float32 or float64; other numbers are converted to float64.

        Raises:
            InputError: parameters out of range, or fewer samples than clusters.
        """
        X = self._validated(X)
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
        """Refuses parameters that are wrong for any data, before any is read.

        Raises:
            InputError: an unknown loss, or a length, scale or count out of range.
        """
        if self.max_iter < 1 or self.n_init < 1:
            raise InputError(f"max_iter = {self.max_iter}, n_init = {self.n_init}", "both at least 1", "set them")
        scale = self._resolve_scale(1.0)
        if not (np.isfinite(scale) and scale > 0):
            raise InputError(f"scale = {scale:g}", "a finite number > 0, or 'std'", "set scale")
        self._resolve_loss(1.0)

    def predict(self, X):
        """The centre of least loss of each point of (N, D): (N,) int32. Ties go to the first centre."""
        return self._against_centres(X)[0]

    def losses(self, X):
        """Summed loss of each point of (N, D) against its nearest centre: (N,) float64."""
        return self._against_centres(X)[1]

    def _against_centres(self, X):
        check_is_fitted(self)
        return _nearest(self._loss, self._validated(X, reset=False), self.cluster_centers_)

    def _validated(self, X, **how):
        X = validate_data(self, X, dtype=(np.float64, np.float32), order="C", **how)
        moderate = 1e-12 < np.abs(X).max(initial=0) < 1e12  # beyond these, squares leave the range of float32
        return X if moderate else X.astype(np.float64)

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
    # x^2 - 2 x c + c^2 is one matrix product but loses digits: it only chooses the centre, from a common origin.
    labels, least_N = np.empty(len(X), np.int32), np.empty(len(X))
    origin_D = centres_MD.mean(axis=0)
    for rows in row_blocks(*X.shape):
        labels[rows] = euclidean_distances(X[rows] - origin_D, centres_MD - origin_D, squared=True).argmin(axis=1)
        least_N[rows] = loss.value(X[rows] - centres_MD[labels[rows]]).sum(axis=1, dtype=np.float64)
    return labels, least_N


def _fill_empty(X, labels, losses_N, centres_MD):
    """Moves the points of greatest loss, and the centres, to empty clusters; sets the loss of these points to 0."""
    filled = fill_empty(labels, losses_N, len(centres_MD))
    moved = np.flatnonzero(filled != labels)
    centres_MD = centres_MD.copy()
    centres_MD[filled[moved]], losses_N[moved] = X[moved], 0.0
    return filled, centres_MD


def _plus_plus(loss: CentreLoss, X: np.ndarray, m: int, random: np.random.RandomState) -> np.ndarray:
    """k-means++ (Arthur & Vassilvitskii, SODA 2007) with the loss in place of the squared distance, greedily."""
    n_trials = 2 + int(np.log(m))
    chosen = [int(random.randint(len(X)))]
    least_N = loss.to_centre(X, X[chosen[0]])
    free = np.ones(len(X), bool)
    free[chosen] = False
    for _ in range(1, m):
        mass = np.where(free, least_N, 0)
        mass = mass if mass.sum() > 0 else free.astype(np.float64)  # any free point, if all points are on centres
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
    """`GeneralisedKMeans`, which explains the arguments, of the class means."""

    def __init__(
        self, loss: str = "square", delta: float = 1.345, sigma: float = 1.0, epsilon: float = 0.5,
        scale: float | str = "std", n_init: int = 1, max_iter: int = 100, tol: float = 1e-4,
    ):  # fmt: skip
        self.loss, self.delta, self.sigma, self.epsilon, self.scale = loss, delta, sigma, epsilon, scale
        self.n_init, self.max_iter, self.tol = n_init, max_iter, tol

    def assign(self, class_means_KD, m, seed):
        estimator = GeneralisedKMeans(n_clusters=m, random_state=seed, **self.get_params())
        return estimator.fit(class_means_KD).labels_
