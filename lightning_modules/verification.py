# SPDX-License-Identifier: MIT
"""Verification: are two images of one person? Accuracy, ROC, and VAL at FAR over folds.

Schroff, Kalenichenko & Philbin, "FaceNet" (CVPR 2015), section 4: a pair is accepted if the squared distance D of
its unit embeddings is at most d; VAL(d) = accepted same pairs / same pairs, FAR(d) = accepted different pairs /
different pairs. A threshold for one fold always comes from the others.

Axes: N samples, D dimensions, P pairs, F folds.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import auc, roc_curve

from datamodules.class_means import moderate_rows
from datamodules.errors import InputError

CHUNK_PAIRS = 16_384  # 64 MiB of float32 for both ends at D = 512


@dataclass(frozen=True)
class ValAtFar:
    """VAL at one FAR, fold by fold."""

    far_target: float
    val: np.ndarray  # (F,) rates in [0, 1]
    far: np.ndarray  # (F,) rates near the target, as the threshold comes from the other folds
    threshold: np.ndarray  # (F,) squared distances


@dataclass(frozen=True)
class Verification:
    """Results of `verify`."""

    accuracy: np.ndarray  # (F,) share of right answers of each fold, in [0, 1]
    threshold: np.ndarray  # (F,) squared distance with the most right answers on the other folds
    far: np.ndarray  # (T,) with `val` the ROC over all pairs together, from (0, 0) to (1, 1)
    val: np.ndarray
    auc: float
    eer: float  # the rate at which FAR = 1 - VAL on the ROC
    val_at_far: tuple[ValAtFar, ...]

    def metrics(self) -> dict[str, float]:
        """Columns of results.csv: rates in percent, their sample deviation over folds as _std, AUC in [0, 1]."""
        row = {"accuracy": 100 * self.accuracy.mean(), "accuracy_std": 100 * self.accuracy.std(ddof=1)}
        row |= {"auc": self.auc, "eer": 100 * self.eer, "threshold": self.threshold.mean()}
        for one in self.val_at_far:
            name = f"{one.far_target:g}"
            row[f"val_at_far_{name}"] = 100 * one.val.mean()
            row[f"val_at_far_{name}_std"] = 100 * one.val.std(ddof=1)
            row[f"far_measured_{name}"] = 100 * one.far.mean()
        return {key: float(value) for key, value in row.items()}


def verify(
    distance_P: np.ndarray, same_P: np.ndarray, fold_P: np.ndarray, far_targets: tuple[float, ...] = (1e-3,)
) -> Verification:
    """Evaluates pairs by their squared distances.

    Args:
        fold_P: integers from 0, at least two folds, each with pairs of both kinds.
        far_targets: FARs in (0, 1) at which VAL is wanted.

    Raises:
        InputError: fewer than two folds, a fold without pairs of a kind, distances that are not finite, or a FAR that
            the different pairs of the other folds are too few for.
    """
    _check(distance_P, same_P, fold_P)
    folds = range(int(fold_P.max()) + 1)
    accuracy, threshold = np.zeros(len(folds)), np.zeros(len(folds))
    for f in folds:
        test, rest = fold_P == f, fold_P != f
        threshold[f] = best_threshold(distance_P[rest], same_P[rest])
        accuracy[f] = ((distance_P[test] <= threshold[f]) == same_P[test]).mean()
    far, val, _ = roc_curve(same_P, -distance_P, drop_intermediate=False)
    val_at_far = tuple(_val_at_far(distance_P, same_P, fold_P, target) for target in far_targets)
    return Verification(accuracy, threshold, far, val, float(auc(far, val)), equal_error_rate(far, val), val_at_far)


def squared_distances(embeddings_ND: np.ndarray, left_P: np.ndarray, right_P: np.ndarray) -> np.ndarray:
    """Squared distances of pairs of rows, each brought to unit length first: (P,) float32 in [0, 4]."""
    distance_P = np.empty(len(left_P), np.float32)
    for start in range(0, len(left_P), CHUNK_PAIRS):
        pairs = slice(start, start + CHUNK_PAIRS)
        ends = (moderate_rows(embeddings_ND[rows_P[pairs]])[0] for rows_P in (left_P, right_P))
        left_pD, right_pD = (rows_pD / np.linalg.norm(rows_pD, axis=1, keepdims=True) for rows_pD in ends)
        distance_P[pairs] = np.square(left_pD - right_pD).sum(axis=1)
    return distance_P


def best_threshold(distance_P: np.ndarray, same_P: np.ndarray) -> float:
    """The threshold with the most right answers, midway between two distances; of several equal ones the middle one.

    >>> best_threshold(np.array([0.1, 0.3, 0.7, 0.9]), np.array([True, True, False, False]))
    0.5
    """
    order = np.argsort(distance_P, kind="stable")
    ordered = distance_P[order].astype(np.float64)
    # right[k]: right answers when the k nearest pairs are accepted.
    right = np.concatenate([[0], np.cumsum(np.where(same_P[order], 1, -1))])
    cuts = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # equal distances are never told apart
    best = np.flatnonzero(cuts & (right == right[cuts].max()))
    k = best[(len(best) - 1) // 2]
    if k == 0:
        return float(np.nextafter(ordered[0], -np.inf))
    return float(ordered[k - 1 : k + 1].mean())


def threshold_at_far(different_P: np.ndarray, far_target: float) -> float:
    """The squared distance at which a share `far_target` of different pairs would be accepted.

    Linear interpolation between the i-th smallest distances, at which FAR = i / P. The FAR on these pairs is the
    largest multiple of 1 / P that does not exceed the target.

    Raises:
        InputError: P < 1 / far_target, or so many equal least distances that any threshold accepts more.
    """
    if not 0 < far_target < 1:
        raise InputError(f"FAR {far_target:g}", "above 0, below 1", "set fars")
    ordered, n = np.sort(different_P).astype(np.float64), len(different_P)
    allowed = far_target * n * (1 + 1e-12)  # 0.001 * 3000 is to be 3, whatever the rounding
    whole = int(allowed)
    # Equal distances are accepted all together or not at all.
    tied = 0 < whole and ordered[whole - 1] == ordered[whole]
    accepted = int(np.searchsorted(ordered, ordered[whole])) if tied else whole
    if accepted < 1:
        least = int(np.searchsorted(ordered, ordered[0], side="right"))
        wanted = f"a FAR that they can show, {least / n:.2g} or more ({least} pairs at the least distance)"
        cure = "ask for a greater FAR in fars, or give more different pairs"
        raise InputError(f"FAR {far_target:g} from {n:,} different pairs in the other folds", wanted, cure)
    if tied:
        return float(ordered[accepted - 1])
    return float(ordered[whole - 1] + (allowed - whole) * (ordered[whole] - ordered[whole - 1]))


def equal_error_rate(far_T: np.ndarray, val_T: np.ndarray) -> float:
    """The rate where a ROC, ascending from 0 to 1 and straight between its points, meets FAR = 1 - VAL."""
    return float(np.interp(0, far_T - (1 - val_T), far_T))


def _val_at_far(distance_P, same_P, fold_P, far_target: float) -> ValAtFar:
    n_folds = int(fold_P.max()) + 1
    val, far, threshold = np.zeros(n_folds), np.zeros(n_folds), np.zeros(n_folds)
    for f in range(n_folds):
        threshold[f] = threshold_at_far(distance_P[(fold_P != f) & ~same_P], far_target)
        accepted, test = distance_P <= threshold[f], fold_P == f
        val[f], far[f] = accepted[test & same_P].mean(), accepted[test & ~same_P].mean()
    return ValAtFar(far_target, val, far, threshold)


def _check(distance_P: np.ndarray, same_P: np.ndarray, fold_P: np.ndarray) -> None:
    if not np.isfinite(distance_P).all():
        bad = np.count_nonzero(~np.isfinite(distance_P))
        raise InputError(f"{bad} distances that are not finite", "finite ones", "check the embeddings")
    n_folds = int(fold_P.max()) + 1 if len(fold_P) else 0
    if n_folds < 2:
        wanted = "at least 2, as thresholds come from other folds"
        raise InputError(f"{n_folds} folds of pairs", wanted, "give more folds")
    for kind, chosen in (("same", same_P), ("different", ~same_P)):
        lacking = np.flatnonzero(np.bincount(fold_P[chosen], minlength=n_folds) == 0)
        if len(lacking):
            raise InputError(f"fold {lacking[0]} without {kind} pairs", "pairs of both kinds", "divide the pairs anew")
