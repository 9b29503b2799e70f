# SPDX-License-Identifier: MIT
"""Stops a fit whose loss is not a number, before it wastes the night."""

import math

from pytorch_lightning import Callback, LightningModule, Trainer


class DivergenceError(RuntimeError):
    """The training loss became NaN or infinite."""


class StopOnNonFinite(Callback):
    """Raises `DivergenceError` after an epoch whose mean loss is not finite."""

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and (error := divergence(float(loss), trainer.current_epoch)):
            raise error


def divergence(loss: float, epoch: int) -> DivergenceError | None:
    """The error of a loss that is not finite; None for one that is."""
    cure = "a lower learning rate, a smaller scale or margin, or look for broken embeddings"
    message = f"got a training loss of {loss} in epoch {epoch}; expected a finite one; cure: {cure}"
    return None if math.isfinite(loss) else DivergenceError(message)
