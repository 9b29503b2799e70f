# SPDX-License-Identifier: MIT
"""The warning that an epoch has few steps."""

from datamodules.cluster_datamodule import batch_size

# Adam with rate 1e-3 moves a number by at most 1e-3 a step; those of a random row are about 0.1.
ENOUGH_STEPS = 500


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
