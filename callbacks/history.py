# SPDX-License-Identifier: MIT
"""Keeps every logged value of a fit in memory, one record per epoch."""

from typing import Any

from pytorch_lightning.loggers.logger import Logger


class History(Logger):
    """A Lightning logger that only remembers; after the fit `records` goes into the sub-network's file.

    A logger and not a callback, because loggers alone see the values of modules and of all callbacks, whatever the
    order in which those ran.

    Attributes:
        records: one dict per epoch in order, keys as logged and `epoch` from 0.
    """

    def __init__(self):
        super().__init__()
        self._by_epoch: dict[int, dict[str, float]] = {}

    name = "history"
    version = 0

    @property
    def records(self) -> list[dict[str, float]]:
        return [self._by_epoch[epoch] for epoch in sorted(self._by_epoch)]

    def restore(self, records: list[dict[str, float]]) -> None:
        """Puts back the records of epochs that an earlier process finished."""
        self._by_epoch = {int(record["epoch"]): dict(record) for record in records}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds values to the record of their epoch; Lightning sends the epoch along."""
        if "epoch" in metrics:
            record = self._by_epoch.setdefault(int(metrics["epoch"]), {"epoch": int(metrics["epoch"])})
            record.update({key: float(value) for key, value in metrics.items() if key != "epoch"})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the configuration."""
