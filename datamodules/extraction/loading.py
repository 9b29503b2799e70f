# SPDX-License-Identifier: MIT
"""From names to batches of face crops, in worker processes, shard by shard, divided among the devices.

Axes: B batch, S side of a crop.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.alignment import Aligner
from datamodules.extraction.shards import ShardStore
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import Source, apply_mark, original_of


@dataclass
class Crops:
    """A batch, inside one shard."""

    rows: np.ndarray  # (B,) int64, all rows of the batch, ascending
    usable: np.ndarray  # (U,) int64, the rows with a crop
    images: torch.Tensor  # (U, S, S, 3) uint8 RGB
    rejected: dict[int, str]  # the other rows, with reasons


class CropDataset(Dataset):
    """For each row its crop, or the reason why there is none.

    Names may have marks of augmented copies. Pictures with a side longer than `max_side` pixels are shrunk first.
    """

    def __init__(self, source: Source, names: np.ndarray, aligner: Aligner, max_side: int):
        self.source, self.names, self.aligner, self.max_side = source, names, aligner, max_side

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> tuple[int, np.ndarray | str]:
        name = str(self.names[row])
        try:
            picture = decode(self.source.read(original_of(name)), self.max_side)
            return row, apply_mark(self.aligner.main_face(picture.pixels_HWC).crop_SSC, name)
        except RejectedImage as rejection:
            return row, rejection.reason

    def collate(self, items: list[tuple[int, np.ndarray | str]]) -> Crops:
        """A batch of rows, each with its (S, S, 3) uint8 crop or a reason."""
        rejected = {row: crop for row, crop in items if isinstance(crop, str)}
        usable = {row: crop for row, crop in items if not isinstance(crop, str)}
        side = self.aligner.image_size
        images = np.stack(list(usable.values())) if usable else np.zeros((0, side, side, 3), np.uint8)
        rows, used = (np.fromiter(some, np.int64) for some in ((row for row, _ in items), usable))
        return Crops(rows, used, torch.from_numpy(images), rejected)


class ShardBatches:
    """Batches of rows in order; none crosses the border of a shard."""

    def __init__(self, store: ShardStore, shards: list[int], batch_size: int):
        self.store, self.shards, self.batch_size = store, shards, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for shard in self.shards:
            rows = self.store.rows_of(shard)
            for start in range(rows.start, rows.stop, self.batch_size):
                yield list(range(start, min(start + self.batch_size, rows.stop)))

    def __len__(self) -> int:
        return sum(-(-len(self.store.rows_of(shard)) // self.batch_size) for shard in self.shards)


class CropDataModule(pl.LightningDataModule):
    """The pending shards of a store, divided among the devices; batch size and workers are per device."""

    def __init__(self, dataset: CropDataset, store: ShardStore, batch_size: int, num_workers: int):
        super().__init__()
        self.dataset, self.store, self.batch_size, self.num_workers = dataset, store, batch_size, num_workers
        self.shards: list[int] = []
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer pending shards than devices

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        assert trainer is not None  # Lightning calls this hook
        # Every device must see the same list of pending shards: none may finish one before all have looked.
        if trainer.is_global_zero:
            self.store.create()
        trainer.strategy.barrier("store created")
        self.shards = self.store.pending()[trainer.global_rank :: trainer.world_size]
        trainer.strategy.barrier("shards divided")

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=ShardBatches(self.store, self.shards, self.batch_size),
            collate_fn=self.dataset.collate,
            num_workers=self.num_workers,
            prefetch_factor=4 if self.num_workers else None,
        )

    def transfer_batch_to_device(self, batch: Crops, device: torch.device, dataloader_idx: int) -> Crops:
        batch.images = batch.images.to(device, non_blocking=True)
        return batch
