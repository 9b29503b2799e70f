# SPDX-License-Identifier: MIT
"""Open-set identification: thresholds and error rates if some probes show persons who are not enrolled.

The rule, after ISO/IEC 19795-1 and the IJB protocol, for all that follows: a search of a person who is not enrolled
(non-mated) is a false positive if its best score is at or above the threshold T. A search of an enrolled person (mated)
is a hit if rank 1 is right and its score is strictly above T. FPIR and TPIR are the shares of these. The threshold for
an FPIR is the lowest non-mated score with at most that FPIR: the f-th highest if f searches may pass. It comes from
the same non-mated searches that the rate is stated for, as in IJB.

Axes: B mated searches, Q non-mated searches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from datamodules.errors import InputError


def threshold_at_fpir(non_mated_scores: np.ndarray, fpir: float) -> float:
    """The threshold for an FPIR in (0, 1), see the rule above; just above all scores if too many share the highest.

    `non_mated_scores` are the (Q,) best scores. Raises InputError: fewer than 1 / fpir probes cannot tell that rate.

    >>> threshold_at_fpir(np.array([0.5, 0.25, 0.125, 0.0]), 0.5)
    0.25
    """
    scores = np.sort(np.asarray(non_mated_scores, dtype=np.float32))[::-1]
    return _threshold(scores, check_fpir(fpir, len(scores)))


def _threshold(falling_Q: np.ndarray, allowed: int) -> float:
    passing = falling_Q[:allowed]
    if allowed < len(falling_Q):  # of equal scores all pass, or none
        passing = passing[passing > falling_Q[allowed]]
    return float(passing[-1] if len(passing) else np.nextafter(falling_Q[0], np.float32(np.inf)))


def check_fpir(fpir: float, n_probes: int) -> int:
    """How many of the probes of unknown persons may pass at an FPIR: at least 1.

    Raises InputError: a rate outside (0, 1), or fewer than 1 / fpir probes.
    """
    allowed = int(np.floor(fpir * n_probes + 1e-9))
    if not 0 < fpir < 1 or allowed < 1:
        expected = f"a rate in (0, 1) and at least {int(np.ceil(1 / fpir)) if fpir > 0 else 1} such probes"
        got = f"fpir = {fpir} with {n_probes} probes of unknown persons"
        raise InputError(got, expected, "raise fpir or split.held_out")
    return allowed


@dataclass(frozen=True)
class Searches:
    """Mated and non-mated searches with one kind of score."""

    score_B: np.ndarray  # best score
    right_B: np.ndarray  # whether rank 1 is right
    reached_B: np.ndarray  # whether a cluster of the true identity was looked into
    identity_B: np.ndarray  # true identity
    score_Q: np.ndarray  # best score
    identity_Q: np.ndarray  # the person


@dataclass(frozen=True)
class OperatingPoint:
    """Rates at one threshold, shares from 0 to 1. hit + wrong_cluster + wrong_class + under_threshold = 1."""

    threshold: float  # T
    fpir: float  # non-mated searches with a score >= T
    tpir: float  # mated searches with the right answer at a score > T; FNIR = 1 - TPIR
    wrong_cluster: float  # mated searches that looked into no cluster of the true identity
    wrong_class: float  # those that did, and named another identity
    under_threshold: float  # those that named the right one at a score <= T


def operating_point(searches: Searches, threshold: float) -> OperatingPoint:
    """The rates at a threshold; without non-mated searches FPIR is NaN."""
    right, hit = searches.right_B, searches.right_B & (searches.score_B > np.float32(threshold))
    missed = ~right & ~searches.reached_B
    fpir = float(np.mean(searches.score_Q >= np.float32(threshold))) if len(searches.score_Q) else np.nan
    return OperatingPoint(
        threshold, fpir, *(float(np.mean(x)) for x in (hit, missed, ~right & searches.reached_B, right & ~hit))
    )


def fpir_on_others(searches: Searches, fpir: float) -> float:
    """The FPIR of persons that a threshold was not set on, for an FPIR asked for in (0, 1).

    The unknown persons are cut into two halves. Each half is searched at the threshold of the other; the rate is over
    both. NaN if a half has too few searches to tell that rate.
    """
    first_Q = np.unique(searches.identity_Q, return_inverse=True)[1] % 2 == 0
    halves = searches.score_Q[first_Q], searches.score_Q[~first_Q]
    if fpir * min(map(len, halves)) < 1:
        return np.nan
    passed = [other >= np.float32(threshold_at_fpir(half, fpir)) for half, other in (halves, halves[::-1])]
    return float(np.concatenate(passed).mean())


def bootstrap_tpir(searches: Searches, fpir: float, random: Generator, resamples: int = 500) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of TPIR at an FPIR in (0, 1), by resampling persons, whose pictures err together.

    Mated and non-mated persons are drawn with repetition; the threshold is found anew in every resample (Efron &
    Tibshirani 1993, percentile interval; with clusters, Field & Welsh, JRSS B 69, 2007).
    """
    order = np.argsort(-searches.score_Q, kind="stable")
    score_Q = searches.score_Q[order]
    mated, mated_of_B = np.unique(searches.identity_B, return_inverse=True)
    unknown, unknown_of_Q = np.unique(searches.identity_Q[order], return_inverse=True)
    found = np.empty(resamples)
    for i in range(resamples):
        weight_B = random.multinomial(len(mated), np.full(len(mated), 1 / len(mated)))[mated_of_B]
        weight_Q = random.multinomial(len(unknown), np.full(len(unknown), 1 / len(unknown)))[unknown_of_Q]
        threshold = _threshold(np.repeat(score_Q, weight_Q), int(fpir * weight_Q.sum() + 1e-9))
        hit_B = searches.right_B & (searches.score_B > np.float32(threshold))
        found[i] = weight_B @ hit_B / weight_B.sum()
    low, high = np.percentile(found, (2.5, 97.5)).tolist()
    return low, high


def det_curve(searches: Searches, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """FPIR, growing from 1 / Q to 1, and FNIR, falling, at the thresholds that the non-mated searches can tell.

    There are at most `points`, evenly over the logarithm of the number of false positives.
    """
    score_Q, n = np.sort(searches.score_Q)[::-1], len(searches.score_Q)
    counts = np.unique(np.geomspace(1, n, points).round().astype(int))
    thresholds = np.unique(score_Q[counts - 1])[::-1]  # at the c-th highest score c searches, or more in a tie, pass
    made = [operating_point(searches, float(threshold)) for threshold in thresholds]
    return np.array([one.fpir for one in made]), np.array([1 - one.tpir for one in made])


def cumulative_match(rank_B: np.ndarray, ranks: int) -> np.ndarray:
    """CMC, (ranks,): the share of mated searches whose true identity is among the first k candidates, for each k from
    1.

    `rank_B`, of shape (B,), is the rank of the true identity, from 1; 0 if it is no candidate.
    """
    return np.cumsum(np.bincount(np.minimum(rank_B, ranks + 1), minlength=ranks + 2)[1 : ranks + 1]) / len(rank_B)
