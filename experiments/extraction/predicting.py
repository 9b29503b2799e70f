# SPDX-License-Identifier: MIT
"""The predict loop: embeds batches, writes them shard by shard, shows how fast.

Axes: B batch, D embedding dimension.
"""

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from datamodules.extractors.base import Extractor
from experiments.extraction.loading import Crops
from experiments.extraction.shards import ShardStore


class ExtractionModule(pl.LightningModule):
    """An extractor as Lightning wants it."""

    def __init__(self, extractor: Extractor):
        super().__init__()
        self.extractor = extractor

    def predict_step(self, batch: Crops, batch_idx: int) -> torch.Tensor:
        """(U, D) embeddings of the usable images of a batch."""
        if not len(batch.usable):
            return torch.zeros(0, self.extractor.embedding_dim, device=self.device)
        return self.extractor.embed_images(batch.images)


class ShardWriter(pl.Callback):
    """Writes embeddings where they belong and finishes each shard with its last batch."""

    def __init__(self, store: ShardStore):
        self.store = store
        self._rejected: dict[int, str] = {}

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch: Crops, batch_idx, dataloader_idx=0) -> None:
        with np.errstate(over="ignore"):  # what does not fit into float16 becomes infinite and is rejected
            embeddings_BD = outputs.float().cpu().numpy().astype(self.store.dtype)
        self._rejected |= batch.rejected
        bad = {
            "embedding is not finite": ~np.isfinite(embeddings_BD).all(axis=1),
            "embedding is all zero": ~embeddings_BD.any(axis=1),
        }
        for reason, rows in bad.items():
            self._rejected |= {int(row): reason for row in batch.usable[rows]}
        good = ~np.logical_or.reduce(list(bad.values()))
        if good.any():
            self.store.write(batch.usable[good], embeddings_BD[good])
        shard = int(batch.rows[-1]) // self.store.shard_rows
        if batch.rows[-1] == self.store.rows_of(shard)[-1]:
            self.store.finish(shard, self._rejected)
            self._rejected = {}


class ImageProgress(pl.Callback):
    """A bar with images per second and time left; of several devices the first shows an estimate for all.

    Args:
        title: what is shown before the bar.
        done: images that were finished before this run.
    """

    def __init__(self, title: str, total: int, done: int):
        self.title, self.total, self.done = title, total, done
        self._progress: Progress | None = None

    def on_predict_start(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            text = TextColumn("{task.description}")
            self._progress = Progress(text, BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
            self._task = self._progress.add_task(self.title, total=self.total, completed=self.done, before=self.done)
            self._progress.start()

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch: Crops, batch_idx, dataloader_idx=0) -> None:
        if self._progress:
            self.done = min(self.done + len(batch.rows) * trainer.world_size, self.total)
            self._progress.update(self._task, completed=self.done)

    def on_predict_end(self, trainer, pl_module) -> None:
        self._stop()

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        done, seconds = task.completed - task.fields["before"], task.elapsed
        return Text(f"{done / seconds:,.1f} images/s" if done and seconds else "- images/s")
