# SPDX-License-Identifier: MIT
"""Reports how far a fit is."""

from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer


class ReportEpoch(Callback):
    """Calls a function after every training epoch: epochs done, epochs in all, and the values logged so far."""

    def __init__(self, report: Callable[[int, int, dict[str, float]], None]):
        self.report = report

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            values = {key: float(value) for key, value in trainer.callback_metrics.items()}
            self.report(trainer.current_epoch + 1, trainer.max_epochs or 0, values)
