# SPDX-License-Identifier: MIT
"""Keeps every logged value of a fit in memory, one record per epoch."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers.logger import Logger


class History(Logger, Callback):
    """A logger that only remembers: `records` has a dict per epoch, keys as logged and `epoch` from 0.

    As a callback of the same fit, it keeps its records in the checkpoints. A logger sees the values of modules and of
    all callbacks, whatever the order in which those ran.
    """

    name = "history"
    version = 0

    def __init__(self):
        super().__init__()
        self._by_epoch: dict[int, dict[str, float]] = {}
        self._validated = False

    @property
    def records(self) -> list[dict[str, float]]:
        return [self._by_epoch[epoch] for epoch in sorted(self._by_epoch)]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds values to the record of their epoch, which is one of them."""
        if "epoch" in metrics:
            record = self._by_epoch.setdefault(int(metrics["epoch"]), {"epoch": int(metrics["epoch"])})
            record.update({key: float(value) for key, value in metrics.items() if key != "epoch"})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder holds the configuration."""

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._validated = False  # Lightning still shows the values of an earlier validation

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._validated = True

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the records; loggers hear of the epoch that just ended only after its checkpoint was written."""
        values = {
            key: float(value) for key, value in trainer.callback_metrics.items()
            if self._validated or not key.startswith("val")
        }  # fmt: skip
        self.log_metrics({**values, "epoch": trainer.current_epoch})
        checkpoint["history"] = self.records

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the records back, and gives them to loggers whose record of the earlier epochs is gone."""
        self._by_epoch = {int(record["epoch"]): dict(record) for record in checkpoint["history"]}
        for logger in trainer.loggers:
            if hasattr(logger, "restore"):
                logger.restore(self.records)
