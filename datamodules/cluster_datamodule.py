# SPDX-License-Identifier: MIT
"""The data of one sub-network: the only place that maps global identities to local classes.

Axes: N samples of the cluster, B samples of a batch that one process takes, D embedding dimension, C classes of the
cluster.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.embedding_set import CHUNK_ROWS, EmbeddingSet
from datamodules.files import scattered_reads
from datamodules.splits import Split, Splits

RESIDENT_BYTES = 2 << 30  # a cluster up to this size is read once and kept; a larger one stays memory-mapped


def local_split(split: Split, members_C: np.ndarray) -> Split:
    """Those samples of a split whose identity is in a cluster, with local labels.

    Args:
        split: samples with enrolled identities as labels, non-decreasing.
        members_C: (C,) identities of the cluster, ascending; the place in it is the local label.

    Returns:
        The samples, labels in [0, C).
    """
    # Labels are sorted: C searches find the samples, however many identities the other clusters have.
    start_C, stop_C = (np.searchsorted(split.labels, members_C, side) for side in ("left", "right"))
    count_C = stop_C - start_C
    before_C = np.cumsum(count_C) - count_C
    inside = np.arange(count_C.sum()) + np.repeat(start_C - before_C, count_C)
    return Split(split.rows[inside], np.repeat(np.arange(len(members_C), dtype=np.int32), count_C))


class Batch(NamedTuple):
    """Samples of one step.

    Attributes:
        unit_BD: (B, D) float32 embeddings divided by their length.
        target_B: (B,) int64 local labels.
        length_B: (B,) float32 lengths of the stored embeddings; some losses read image quality from them.
    """

    unit_BD: Tensor
    target_B: Tensor
    length_B: Tensor


class IndexBatches:
    """Batches gathered by index, no Python per sample; Lightning takes it as a data loader.

    The order of a shuffled epoch depends on (seed, stream, epoch) alone: not on what ran before, so that a resumed
    or moved job sees the same batches. Of w processes each takes every w-th sample of a batch, so that a step sees
    the same samples on any number of devices.

    Rows that fit are read and divided by their length once and stay on the device that trains; of a larger set a
    second thread reads the next batch while this one trains.

    Args:
        embeddings_ND: all rows of the embedding set, memory-mapped or not.
        split: the rows to serve and their local labels.
        batch_size: samples per step, shared by all processes.
        seed: of the order.
        stream: number of the sub-network, so that two sub-networks of a run have different orders.
        shuffle: whether to shuffle each epoch; otherwise the rows come in order.
        rank, world_size: which process of how many this is.
        resident_bytes: up to this size (as float32) the rows are kept; None: `RESIDENT_BYTES`, or half of what is
            free on a GPU.
        device: that trains.
    """

    def __init__(
        self,
        embeddings_ND: np.ndarray,
        split: Split,
        batch_size: int,
        seed: int = 0,
        stream: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        resident_bytes: int | None = None,
        device: torch.device | str = "cpu",
    ):
        self.embeddings_ND, self.rows, self.device = embeddings_ND, split.rows, torch.device(device)
        self.target_N = torch.from_numpy(split.labels.astype(np.int64))
        self.batch_size, self.seed, self.stream, self.shuffle = batch_size, seed, stream, shuffle
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        if resident_bytes is None:
            on_gpu = self.device.type == "cuda"
            resident_bytes = torch.cuda.mem_get_info(self.device)[0] // 2 if on_gpu else RESIDENT_BYTES
        fits = len(split) * embeddings_ND.shape[1] * 4 <= resident_bytes
        self.resident = self._read(np.arange(len(split))) if fits else None

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    @property
    def sampler(self) -> "IndexBatches":
        """Lightning announces each epoch to `loader.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass; called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def together(self, batch_index: int) -> int:
        """Samples of a batch over all ranks."""
        return min(self.batch_size, len(self.rows) - batch_index * self.batch_size)

    def weight(self, batch_index: int) -> float:
        """Factor of this rank's mean loss, so that the mean over ranks is the mean over the whole batch.

        Args:
            batch_index: which batch of the epoch.

        Returns:
            Samples of this rank times ranks over samples of the whole batch; 1 wherever the ranks share evenly.
        """
        together = self.together(batch_index)
        return len(range(self.rank, together, self.world_size)) * self.world_size / together

    def order(self) -> Tensor:
        """The order of the current epoch: (N,) int64."""
        if not self.shuffle:
            return torch.arange(len(self.rows))
        seed = np.random.SeedSequence([self.seed, self.stream, self.epoch]).generate_state(2, np.uint32)
        generator = torch.Generator().manual_seed(int(seed[0]) << 32 | int(seed[1]))
        return torch.randperm(len(self.rows), generator=generator)

    def __iter__(self) -> Iterator[Batch]:
        order = self.order()
        indices = (
            self._mine(order[start : start + self.batch_size]) for start in range(0, len(order), self.batch_size)
        )
        if self.resident is not None:
            unit_ND, target_N, length_N = self.resident
            for index_B in indices:
                index_B = index_B.to(self.device)
                yield Batch(*(tensor.index_select(0, index_B) for tensor in (unit_ND, target_N, length_N)))
            return
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for index_B in indices:
                ready, coming = coming, reader.submit(self._read, index_B.numpy())
                if ready:
                    yield ready.result()
            if coming:
                yield coming.result()

    def _mine(self, index_B: Tensor) -> Tensor:
        if self.world_size == 1:
            return index_B
        # A rank for which nothing is left repeats a sample, and `weight` takes it out of the gradient: an empty
        # batch would have a NaN mean.
        place = torch.arange(self.rank, max(len(index_B), self.world_size), self.world_size)
        return index_B[place % len(index_B)]

    def _read(self, index: np.ndarray) -> Batch:
        rows = self.rows[index]
        unit_BD = torch.empty((len(rows), self.embeddings_ND.shape[1]))
        length_B = torch.empty(len(rows))
        order = np.argsort(rows)  # ascending reads: a memory map on a disk wants them so
        sparse = len(rows) > 0 and len(rows) * 8 < int(rows[order[-1]]) - int(rows[order[0]])
        with scattered_reads(self.embeddings_ND) if sparse else nullcontext():
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = order[start : start + CHUNK_ROWS]
                read = torch.from_numpy(np.asarray(self.embeddings_ND[rows[chunk]], dtype=np.float32))
                length = torch.linalg.vector_norm(read, dim=1)
                length_B[chunk], unit_BD[chunk] = length, read / length.clamp_min(1e-12)[:, None]
        batch = Batch(unit_BD, self.target_N[torch.from_numpy(index)], length_B)
        if self.device.type != "cuda":
            return batch
        return Batch(*(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in batch))


class ClusterDataModule(LightningDataModule):
    """Training and validation batches of one cluster.

    Args:
        embedding_set: the data.
        splits: who is enrolled, and the role of each sample.
        members_C: (C,) identities of the cluster, ascending.
        batch_size: samples per step, shared by all processes.
        seed: of the batch order.
        stream: number of the sub-network.
    """

    def __init__(
        self,
        embedding_set: EmbeddingSet,
        splits: Splits,
        members_C: np.ndarray,
        batch_size: int = 256,
        seed: int = 0,
        stream: int = 0,
    ):
        super().__init__()
        self.embedding_set, self.members_C = embedding_set, members_C
        self.train_split = local_split(splits.train, members_C)
        self.val_split = local_split(splits.val, members_C)
        self.batch_size, self.seed, self.stream = batch_size, seed, stream

    @property
    def n_classes(self) -> int:
        """C, the classes of the sub-network."""
        return len(self.members_C)

    def _batches(self, split: Split, batch_size: int, shuffle: bool) -> IndexBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        return IndexBatches(
            self.embedding_set.embeddings, split, batch_size, self.seed, self.stream, shuffle, rank, world,
            device=device,
        )  # fmt: skip

    def train_dataloader(self) -> IndexBatches:
        """Shuffled training batches."""
        return self._batches(self.train_split, self.batch_size, shuffle=True)

    def val_dataloader(self) -> IndexBatches:
        """Validation batches in order."""
        return self._batches(self.val_split, max(self.batch_size, 1024), shuffle=False)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch as it is: `IndexBatches` serves it on the device that trains."""
        return batch
