# SPDX-License-Identifier: MIT
"""The batch size, and the warning that an epoch has few steps."""

LARGEST_BATCH = 256
STEPS_PER_EPOCH = 16  # that batch_size=auto aims at
# Adam with rate 1e-3 moves a number by at most 1e-3 a step; those of a random row are about 0.1.
ENOUGH_STEPS = 500


def batch_size(value: int | str, n_samples: int) -> int:
    """The batch size of a sub-network.

    Args:
        value: trainer.batch_size; "auto" takes the largest power of two, up to 256, with at least 16 steps per epoch.

    >>> [batch_size("auto", n) for n in (1, 60, 1000, 4096, 10**6)], batch_size(256, 60)
    ([1, 2, 32, 256, 256], 256)
    """
    if value != "auto":
        return int(value)
    most = max(1, n_samples // STEPS_PER_EPOCH)
    return min(LARGEST_BATCH, 1 << (most.bit_length() - 1))


def few_steps_warning(value: int | str, max_epochs: int, n_samples: dict[str, int]) -> str | None:
    """A warning, if the sub-network with the fewest steps trains too few to get far from random rows; else None."""
    if not n_samples:
        return None
    title, fewest = min(n_samples.items(), key=lambda item: item[1])
    steps = -(-fewest // batch_size(value, fewest))
    if steps * max_epochs >= ENOUGH_STEPS:
        return None
    return (
        f"warning: {title} has about {fewest} training samples, so {steps} steps per epoch and "
        f"{steps * max_epochs} in all; from random rows that is too few. Cure: "
        f"{'' if value == 'auto' else 'trainer.batch_size=auto, '}init=prototype, or a larger trainer.max_epochs"
    )
