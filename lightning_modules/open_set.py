# SPDX-License-Identifier: MIT
"""Open-set identification: thresholds and error rates where some probes show persons who are not enrolled.

Definitions after ISO/IEC 19795-1 and the IJB protocol: a non-mated search is a false positive where its best score
is at or above the threshold; a mated search is a hit where rank 1 is right and its score is strictly above.
"""

import numpy as np

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
