# SPDX-License-Identifier: MIT
"""Writes embeddings shard by shard. Axes: B batch, D embedding dimension."""

import numpy as np
import pytorch_lightning as pl

from datamodules.extraction.loading import Crops
from datamodules.extraction.shards import ShardStore


class ShardWriter(pl.Callback):
    """Writes embeddings into a store and finishes each shard with its last batch."""

    def __init__(self, store: ShardStore):
        self.store = store
        self._rejected: dict[int, str] = {}

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch: Crops, batch_idx, dataloader_idx=0) -> None:
        with np.errstate(over="ignore"):  # too large for float16: becomes infinite and is rejected
            embeddings_BD = outputs.float().cpu().numpy().astype(self.store.dtype)
        self._rejected |= batch.rejected
        finite, zero = np.isfinite(embeddings_BD).all(axis=1), ~embeddings_BD.any(axis=1)
        for reason, bad in (("embedding is not finite", ~finite), ("embedding is all zero", zero)):
            self._rejected |= {int(row): reason for row in batch.usable[bad]}
        good = finite & ~zero
        if good.any():
            self.store.write(batch.usable[good], embeddings_BD[good])
        shard = int(batch.rows[-1]) // self.store.shard_rows
        if batch.rows[-1] == self.store.rows_of(shard)[-1]:
            self.store.finish(shard, self._rejected)
            self._rejected = {}
