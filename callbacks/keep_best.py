# SPDX-License-Identifier: MIT
"""Ends a fit with the weights of its best epoch."""

import copy
import math

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor


class KeepBest(Callback):
    """Remembers, in memory, the weights of the epoch with the lowest value, and puts them back when the fit ends.

    Attributes:
        best_epoch: its number from 0, None before the first.

    Args:
        monitor: name of a logged validation value; lower is better, the first of equal ones wins.
        patience: epochs without a lower value after which the fit stops.
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
