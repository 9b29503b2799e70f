# SPDX-License-Identifier: MIT
"""From names to batches of face crops, in worker processes, shard by shard and shared out among devices.

Axes: B batch, S side of a crop.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.alignment import Aligner
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import Source, apply_mark, original_of
from experiments.extraction.shards import ShardStore


@dataclass
class Crops:
    """A batch that lies in one shard.

    Attributes:
        rows: (B,) int64, all rows of the batch, ascending.
        usable: (U,) int64, those of them with a crop.
        images: (U, S, S, 3) uint8 RGB.
        rejected: the other rows, and why.
    """

    rows: np.ndarray
    usable: np.ndarray
    images: torch.Tensor
    rejected: dict[int, str]


class CropDataset(Dataset):
    """Row -> crop, or the reason why there is none.

    Args:
        names: (N,) as listed; marks of augmented copies are obeyed.
        max_side: pictures are shrunk to so many pixels first.
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
        """Puts rows together, each with its crop (S, S, 3) uint8 or the reason why there is none."""
        rejected = {row: crop for row, crop in items if isinstance(crop, str)}
        usable = [(row, crop) for row, crop in items if not isinstance(crop, str)]
        side = self.aligner.image_size
        images = np.stack([crop for _, crop in usable]) if usable else np.zeros((0, side, side, 3), np.uint8)
        rows = np.array([row for row, _ in items], np.int64)
        return Crops(rows, np.array([row for row, _ in usable], np.int64), torch.from_numpy(images), rejected)


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
    """The pending shards of a store, shared out among the devices.

    Args:
        batch_size: images at a time and device.
        num_workers: processes that decode and align, per device; 0 does it in the main process.
    """

    def __init__(self, dataset: CropDataset, store: ShardStore, batch_size: int, num_workers: int):
        super().__init__()
        self.dataset, self.store, self.batch_size, self.num_workers = dataset, store, batch_size, num_workers
        self.shards: list[int] = []
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer pending shards than devices

    def setup(self, stage: str) -> None:
        # Every device must see the same list of pending shards: nobody may finish one while another still looks.
        if self.trainer.is_global_zero:
            self.store.create()
        self.trainer.strategy.barrier("store created")
        self.shards = self.store.pending()[self.trainer.global_rank :: self.trainer.world_size]
        self.trainer.strategy.barrier("shards shared out")

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
