# SPDX-License-Identifier: MIT
"""The data of one sub-network, labelled by the classes of its cluster.

Axes: N samples of the cluster, B samples of a batch on one process, D embedding dimension, C classes of the cluster.
"""

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.class_means import moderate_rows
from datamodules.embedding_set import CHUNK_ROWS, EmbeddingSet
from datamodules.splits import Split, Splits, local_split

LARGEST_BATCH = 256
STEPS_PER_EPOCH = 16  # that batch_size=auto aims at
RESIDENT_BYTES = 2 << 30  # a cluster up to this size is kept in memory; a larger one stays memory-mapped


class Batch(NamedTuple):
    """Samples of one step."""

    unit_BD: Tensor  # (B, D) float32 embeddings divided by their length
    target_B: Tensor  # (B,) int64 local labels
    length_B: Tensor  # (B,) float32 lengths of the stored embeddings; some losses read image quality from them
    # Factor of this rank's mean loss that makes the mean over ranks the mean over the whole batch: its samples times
    # ranks over samples of the whole batch; 0 for a rank that repeats a sample of another.
    weight: float = 1.0


class IndexBatches:
    """Batches gathered by index, without Python code per sample; Lightning takes it as a data loader.

    The order of a shuffled epoch depends on (seed, stream, epoch) alone, so a resumed or moved job sees the same
    batches. Each of w processes takes every w-th sample of a batch: a step sees the same samples on any number of them.

    Rows that fit are read and normalised once and stay on the device that trains. Otherwise a second thread reads the
    next batch while this one trains.

    Args:
        split: the rows to serve and their local labels.
        batch_size: samples per step, shared by all processes.
        stream: number of the sub-network: sub-networks of a run have different orders.
        resident_bytes: size in bytes, as float32, up to which the rows are kept; None: `RESIDENT_BYTES`, or half of the
            free memory of a GPU.
        epoch: called at the start of a pass for the number of the epoch.
    """

    def __init__(
        self, embeddings_ND: np.ndarray, split: Split, batch_size: int, seed: int = 0, stream: int = 0,
        shuffle: bool = False, rank: int = 0, world_size: int = 1, resident_bytes: int | None = None,
        device: torch.device | str = "cpu", epoch: Callable[[], int] = lambda: 0,
    ):  # fmt: skip
        self.embeddings_ND, self.rows, self.device = embeddings_ND, split.rows, torch.device(device)
        self.target_N = torch.from_numpy(split.labels.astype(np.int64))
        self.batch_size, self.seed, self.stream, self.shuffle = batch_size, seed, stream, shuffle
        self.rank, self.world_size, self.epoch = rank, world_size, epoch
        if resident_bytes is None:
            on_gpu = self.device.type == "cuda"
            resident_bytes = torch.cuda.mem_get_info(self.device)[0] // 2 if on_gpu else RESIDENT_BYTES
        fits = len(split) * embeddings_ND.shape[1] * 4 <= resident_bytes
        self.resident = self._read(np.arange(len(split))) if fits else None

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def order(self) -> Tensor:
        """The order of the current epoch: (N,) int64."""
        if not self.shuffle:
            return torch.arange(len(self.rows))
        seed = np.random.SeedSequence([self.seed, self.stream, self.epoch()]).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(seed[0]) << 32 | int(seed[1]))
        return torch.randperm(len(self.rows), generator=generator)

    def __iter__(self) -> Iterator[Batch]:
        shares = (self._share(index_B) for index_B in self.order().split(self.batch_size))
        if self.resident is not None:
            for index_B, weight in shares:
                index_B = index_B.to(self.device)
                unit_BD, target_B, length_B = (tensor.index_select(0, index_B) for tensor in self.resident[:3])
                yield Batch(unit_BD, target_B, length_B, weight)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for share in [*shares, None]:
                ready, coming = coming, share and reader.submit(self._read, share[0].numpy(), share[1])
                if ready:
                    yield ready.result()

    def _share(self, index_B: Tensor) -> tuple[Tensor, float]:
        if self.world_size == 1:
            return index_B, 1.0
        mine = range(self.rank, len(index_B), self.world_size)
        # The mean loss of an empty batch is NaN: a rank without a sample repeats one with weight 0.
        place = torch.arange(self.rank, max(len(index_B), self.world_size), self.world_size)
        return index_B[place % len(index_B)], len(mine) * self.world_size / len(index_B)

    def _read(self, index: np.ndarray, weight: float = 1.0) -> Batch:
        rows = self.rows[index]
        unit_BD, length_B = torch.empty((len(rows), self.embeddings_ND.shape[1])), torch.empty(len(rows))
        order = np.argsort(rows)  # a disk is read fastest in ascending order
        sparse = len(rows) > 0 and len(rows) * 8 < int(rows[order[-1]]) - int(rows[order[0]])
        with scattered_reads(self.embeddings_ND) if sparse else nullcontext():
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = order[start : start + CHUNK_ROWS]
                read, power = moderate_rows(self.embeddings_ND[rows[chunk]])
                length = torch.linalg.vector_norm(torch.from_numpy(read), dim=1)
                unit_BD[chunk] = torch.from_numpy(read) / length.clamp_min(1e-12)[:, None]
                length_B[chunk] = torch.ldexp(length, torch.from_numpy(power)).clamp_max(torch.finfo().max)
        target_B = self.target_N[torch.from_numpy(index)]
        if self.device.type == "cuda":
            unit_BD, target_B, length_B = (
                tensor.pin_memory().to(self.device, non_blocking=True) for tensor in (unit_BD, target_B, length_B)
            )
        return Batch(unit_BD, target_B, length_B, weight)


@contextmanager
def scattered_reads(rows_ND: np.ndarray) -> Iterator[None]:
    """Reads few rows of a memory map from the disk without the rows between them.

    Linux reads 128 KiB around a row that is not in memory: for a 200th of the rows, 65 times the bytes needed.
    """
    mapped: Any = rows_ND
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    advise = getattr(mapped, "madvise", None)  # not on Windows
    try:
        if advise:
            advise(mmap.MADV_RANDOM)
        yield
    finally:
        if advise:
            advise(mmap.MADV_NORMAL)


class Bundles:
    """Lists of `size` batches, for `lightning_modules.bundled_steps`; at most `limit` batches of an epoch."""

    def __init__(self, batches: IndexBatches, size: int, limit: int | None = None):
        self.batches, self.size = batches, size
        self.count = len(batches) if limit is None else min(limit, len(batches))

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[list[Batch]]:
        batches = islice(self.batches, self.count)
        while bundle := list(islice(batches, self.size)):
            yield bundle


def batch_size(value: int | str, n_samples: int) -> int:
    """The batch size of a sub-network.

    Args:
        value: trainer.batch_size; "auto" takes the largest power of two, up to 256, with at least 16 steps per epoch.

    >>> [batch_size("auto", n) for n in (1, 60, 1000, 4096, 10**6)], batch_size(256, 60)
    ([1, 2, 32, 256, 256], 256)
    """
    if value != "auto":
        return int(value)
    most = max(1, n_samples // STEPS_PER_EPOCH)
    return min(LARGEST_BATCH, 1 << (most.bit_length() - 1))


class ClusterDataModule(LightningDataModule):
    """Training and validation batches of some identities; see `IndexBatches` for the arguments.

    Attributes:
        steps_per_call: batches in a bundle, see `lightning_modules.bundled_steps`; 1 serves single batches.
        steps_per_epoch: batches of an epoch if they are bundled; None is all.
        shared: whether the ranks share each batch; if not, every rank takes all of it, as sharded heads need.
    """

    def __init__(
        self, embeddings_ND: np.ndarray, train: Split, val: Split, batch_size: int = 256, seed: int = 0, stream: int = 0
    ):
        super().__init__()
        self.embeddings_ND, self.train_split, self.val_split = embeddings_ND, train, val
        self.batch_size, self.seed, self.stream = batch_size, seed, stream
        self.steps_per_call, self.shared = 1, True
        self.steps_per_epoch: int | None = None
        self._served: list[IndexBatches] = []

    @classmethod
    def of_cluster(
        cls, embedding_set: EmbeddingSet, splits: Splits, members_C: np.ndarray, **more: int
    ) -> "ClusterDataModule":
        """The batches of the identities `members_C`, ascending, labelled by their place among them."""
        train, val = local_split(splits.train, members_C), local_split(splits.val, members_C)
        return cls(embedding_set.embeddings, train, val, **more)

    def _batches(self, split: Split, batch_size: int, shuffle: bool) -> IndexBatches:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer and self.shared else (0, 1)
        batches = IndexBatches(
            self.embeddings_ND, split, batch_size, self.seed, self.stream, shuffle, rank, world,
            device=trainer.strategy.root_device if trainer else "cpu",
            epoch=(lambda: trainer.current_epoch) if trainer else (lambda: 0),
        )  # fmt: skip
        self._served.append(batches)
        return batches

    def train_dataloader(self) -> IndexBatches | Bundles:
        batches = self._batches(self.train_split, self.batch_size, shuffle=True)
        return batches if self.steps_per_call == 1 else Bundles(batches, self.steps_per_call, self.steps_per_epoch)

    def val_dataloader(self) -> IndexBatches:
        return self._batches(self.val_split, max(self.batch_size, 1024), shuffle=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch itself: `IndexBatches` serves it on the device that trains."""
        return batch

    def release(self) -> None:
        """Frees the rows that its batches keep; they cannot be used afterwards."""
        while self._served:
            self._served.pop().resident = None
