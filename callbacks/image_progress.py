# SPDX-License-Identifier: MIT
"""A progress bar with images per second."""

import time

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.extraction.loading import Crops


class ImageProgress(pl.Callback):
    """Images per second and time left; `done` were finished before. The first of several devices estimates for all."""

    def __init__(self, title: str, total: int, done: int, console: Console | None = None):
        self.console = console
        self.title, self.total, self.before, self.done = title, total, done, done
        self._progress: Progress | None = None

    def on_predict_start(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            title, speed = TextColumn("{task.description}"), TextColumn("{task.fields[speed]} images/s")
            columns = title, BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()
            self._progress = Progress(*columns, console=self.console)
            self._task = self._progress.add_task(self.title, total=self.total, completed=self.done, speed="-")
            self._started = time.monotonic()
            self._progress.start()

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch: Crops, batch_idx, dataloader_idx=0) -> None:
        if self._progress:
            self.done = min(self.done + len(batch.rows) * trainer.world_size, self.total)
            speed = (self.done - self.before) / (time.monotonic() - self._started)
            self._progress.update(self._task, completed=self.done, speed=f"{speed:,.1f}")

    def on_predict_end(self, trainer, pl_module) -> None:
        if self._progress:
            self._progress.stop()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_predict_end(trainer, pl_module)
