# SPDX-License-Identifier: MIT
"""Ends a fit with the weights of its best epoch."""

import copy
import math

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


class KeepBest(Callback):
    """Keeps the weights of the epoch with the lowest `monitor` in memory, and puts them back when the fit ends.

    The fit stops after `patience` epochs without a lower value. `best_epoch` counts from 0, of equal values the first;
    None before the first validation.
    """

    def __init__(self, monitor: str = "val/loss", patience: int = 5):
        self.monitor, self.patience = monitor, patience
        self.best_epoch: int | None = None
        self._best = math.inf
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if value < self._best:
            self._best, self.best_epoch = value, trainer.current_epoch
            self._weights = copy.deepcopy(module.state_dict())
        elif self.best_epoch is not None and trainer.current_epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._weights:
            module.load_state_dict(self._weights)
            self._weights = {}
