# SPDX-License-Identifier: MIT
"""Learning-rate schedules over all steps of a fit, for `scheduler=`.

A scheduler that takes `total_steps` moves after every optimiser step; others, as those of torch, after every epoch.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> None:
    """The learning rate stays, as in the paper."""


def linear(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Falls in a straight line; it would reach 0 one step after the last."""
    return LambdaLR(optimizer, lambda step: 1.0 - min(step / total_steps, 1.0))


def cosine(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Falls as half a cosine wave (SGDR, Loshchilov & Hutter, ICLR 2017, eq. 5 with one period)."""
    return LambdaLR(optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / total_steps, 1.0))))


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Rises in a straight line over the first share of the steps, then falls as half a cosine wave.

    Raises ValueError: warmup, a share of the steps, outside [0, 1).
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"got warmup {warmup}; expected a share of the steps in [0, 1)")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1.0 + math.cos(math.pi * min((step - rising) / max(total_steps - rising, 1), 1.0)))

    return LambdaLR(optimizer, factor)
