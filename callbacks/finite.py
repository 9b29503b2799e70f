# SPDX-License-Identifier: MIT
"""Stops a fit whose loss is not a number, before it wastes the night."""

import math

from pytorch_lightning import Callback, LightningModule, Trainer


class DivergenceError(RuntimeError):
    """The training loss became NaN or infinite."""


class StopOnNonFinite(Callback):
    """Raises `DivergenceError` after an epoch whose mean loss is not finite."""

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Looks at `train/loss`, which the module logs with its last batch."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise DivergenceError(
                f"got a training loss of {float(loss)} in epoch {trainer.current_epoch}; expected a finite one; "
                "cure: a lower learning rate, a smaller scale or margin, or look for broken embeddings"
            )
