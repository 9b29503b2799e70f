# SPDX-License-Identifier: MIT
"""Learning-rate schedules: pure functions of how far a fit is, so that a resumed fit needs no state for them."""

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Factor of the optimiser's learning rate in one step.

    constant keeps it (the paper's recipe); linear falls in a straight line, cosine as half a cosine wave (SGDR,
    Loshchilov & Hutter, ICLR 2017, eq. 5 with one period); both would reach 0 one step after the last.

    Args:
        schedule: constant, linear or cosine.
        step: number of the step, from 0.
        steps: of the whole fit, at least 1.

    Returns:
        In (0, 1].

    Raises:
        KeyError: an unknown schedule.
    """
    return SCHEDULES[schedule](min(step / steps, 1.0))
