# SPDX-License-Identifier: MIT
"""Open-set identification: thresholds and error rates where some probes show persons who are not enrolled.

Definitions after ISO/IEC 19795-1 and the IJB protocol: a non-mated search is a false positive where its best score
is at or above the threshold; a mated search is a hit where rank 1 is right and its score is strictly above. The
threshold for a rate is taken from the non-mated searches that it is stated for, as IJB does.

Axes: B mated searches, Q non-mated searches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from datamodules.errors import InputError


def threshold_at_fpir(non_mated_scores: np.ndarray, fpir: float) -> float:
    """The lowest threshold whose false-positive identification rate on the given scores is at most `fpir`.

    FPIR(T) = |{q : s(q) >= T}| / |Q|. With f = floor(fpir |Q|) false positives allowed, T lies just above the
    (f + 1)-th highest score.

    Args:
        non_mated_scores: (Q,) best score of each probe of a person who is not enrolled.
        fpir: allowed rate, in (0, 1).

    Raises:
        InputError: too few probes to tell that rate: fewer than 1 / fpir.
    """
    scores = np.sort(np.asarray(non_mated_scores, dtype=np.float32))[::-1]
    allowed = check_fpir(fpir, len(scores))
    return float(np.nextafter(scores[allowed], np.float32(np.inf))) if allowed < len(scores) else float(scores[-1])


def check_fpir(fpir: float, n_probes: int) -> int:
    """Makes sure that so many probes of unknown persons can tell a rate.

    Args:
        fpir: allowed false-positive identification rate, in (0, 1).
        n_probes: probes of persons who are not enrolled.

    Returns:
        How many false positives the rate allows, at least 1.

    Raises:
        InputError: a rate outside (0, 1), or fewer than 1 / fpir probes.
    """
    allowed = int(np.floor(fpir * n_probes + 1e-9))
    if not 0 < fpir < 1 or allowed < 1:
        raise InputError(
            f"fpir = {fpir} with {n_probes} probes of unknown persons",
            f"a rate in (0, 1) and at least {int(np.ceil(1 / fpir)) if fpir > 0 else 1} such probes",
            "raise fpir or split.held_out",
        )
    return allowed


@dataclass(frozen=True)
class Searches:
    """Mated and non-mated searches with one kind of score.

    Attributes:
        score_B, right_B, reached_B, identity_B: of each mated search the best score, whether rank 1 is right, whether
            a cluster of the true identity was looked into, and the true identity.
        score_Q, identity_Q: of each non-mated search the best score and the person.
    """

    score_B: np.ndarray
    right_B: np.ndarray
    reached_B: np.ndarray
    identity_B: np.ndarray
    score_Q: np.ndarray
    identity_Q: np.ndarray


@dataclass(frozen=True)
class OperatingPoint:
    """Rates at one threshold, shares from 0 to 1. hit + wrong_cluster + wrong_class + under_threshold = 1.

    Attributes:
        threshold: T.
        fpir: share of non-mated searches with a score >= T.
        tpir: share of mated searches with the right answer at a score > T; FNIR = 1 - TPIR.
        wrong_cluster: share of mated searches that looked into no cluster of the true identity.
        wrong_class: share that did, and named another one.
        under_threshold: share that named the right one at a score <= T.
    """

    threshold: float
    fpir: float
    tpir: float
    wrong_cluster: float
    wrong_class: float
    under_threshold: float


def operating_point(searches: Searches, threshold: float) -> OperatingPoint:
    """The rates at a threshold; without non-mated searches FPIR is NaN."""
    right, hit = searches.right_B, searches.right_B & (searches.score_B > np.float32(threshold))
    missed = ~right & ~searches.reached_B
    fpir = float(np.mean(searches.score_Q >= np.float32(threshold))) if len(searches.score_Q) else np.nan
    return OperatingPoint(
        threshold, fpir, *(float(np.mean(x)) for x in (hit, missed, ~right & searches.reached_B, right & ~hit))
    )


def bootstrap_tpir(searches: Searches, fpir: float, random: Generator, resamples: int = 500) -> tuple[float, float]:
    """95 % interval of TPIR at an FPIR, by resampling persons: pictures of one person err together.

    Mated and non-mated persons are drawn with repetition; the threshold is found anew in every resample (Efron &
    Tibshirani 1993, percentile interval; with clusters, Field & Welsh, JRSS B 69, 2007).

    Args:
        fpir: allowed rate, in (0, 1).

    Returns:
        The 2.5th and 97.5th percentile.
    """
    order = np.argsort(-searches.score_Q, kind="stable")
    score_Q = searches.score_Q[order]
    ends_tie = np.r_[score_Q[1:] != score_Q[:-1], True]
    mated, mated_of_B = np.unique(searches.identity_B, return_inverse=True)
    unknown, unknown_of_Q = np.unique(searches.identity_Q[order], return_inverse=True)
    found = np.empty(resamples)
    for i in range(resamples):
        weight_B = random.multinomial(len(mated), np.full(len(mated), 1 / len(mated)))[mated_of_B]
        weight_Q = random.multinomial(len(unknown), np.full(len(unknown), 1 / len(unknown)))[unknown_of_Q]
        above_Q = np.cumsum(weight_Q)  # false positives of a threshold at this score
        allowed = np.flatnonzero((above_Q > fpir * above_Q[-1] + 1e-9) & ends_tie)
        # Strictly above the first score that would let too many in.
        threshold = score_Q[allowed[0]] if len(allowed) else -np.inf
        hit_B = searches.right_B & (searches.score_B > threshold)
        found[i] = weight_B @ hit_B / weight_B.sum()
    low, high = np.percentile(found, (2.5, 97.5)).tolist()
    return low, high


def det_curve(searches: Searches, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """FNIR over FPIR at the thresholds that the non-mated searches can tell.

    Args:
        points: at most so many, evenly over the logarithm of the number of false positives.

    Returns:
        FPIR, growing from 1 / Q to 1, and FNIR, falling.
    """
    score_Q, n = np.sort(searches.score_Q)[::-1], len(searches.score_Q)
    counts = np.unique(np.geomspace(1, n, points).round().astype(int))
    thresholds = np.unique(score_Q[counts - 1])[::-1]  # at the c-th highest score c searches, or more in a tie, pass
    made = [operating_point(searches, float(threshold)) for threshold in thresholds]
    return np.array([one.fpir for one in made]), np.array([1 - one.tpir for one in made])


def cumulative_match(rank_B: np.ndarray, ranks: int) -> np.ndarray:
    """CMC: the share of mated searches whose true identity is among the first k candidates, for k = 1 to `ranks`.

    Args:
        rank_B: (B,) rank of the true identity, from 1; 0 where it is no candidate.
    """
    return np.cumsum(np.bincount(np.minimum(rank_B, ranks + 1), minlength=ranks + 2)[1 : ranks + 1]) / len(rank_B)
