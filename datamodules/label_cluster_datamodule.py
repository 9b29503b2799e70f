# SPDX-License-Identifier: MIT
"""The data of one label cluster, in memory. Axes: N rows, B rows of a batch, K inputs, L labels of the cluster."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.errors import InputError
from datamodules.multilabel import RowSplit


class RowBatches:
    """Batches of inputs and labels, without Python code per row; Lightning takes it as a data loader.

    Args:
        batch_size: rows of a batch; None takes all.
        seed: None keeps the order of the rows; otherwise it depends on (seed, stream, epoch) alone.
        stream: number of the network: networks of a run have different orders.
    """

    def __init__(
        self, inputs_NK: Tensor, labels_NL: Tensor, batch_size: int | None, seed: int | None = None, stream: int = 0,
        epoch: Callable[[], int] = lambda: 0,
    ):  # fmt: skip
        self.inputs_NK, self.labels_NL, self.epoch = inputs_NK, labels_NL, epoch
        self.batch_size, self.seed, self.stream = batch_size or len(inputs_NK), seed, stream

    def __len__(self) -> int:
        return -(-len(self.inputs_NK) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None or len(self) == 1:
            yield from zip(self.inputs_NK.split(self.batch_size), self.labels_NL.split(self.batch_size), strict=True)
            return
        state = np.random.SeedSequence([self.seed, self.stream, self.epoch()]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        for index_B in torch.randperm(len(self.inputs_NK), generator=generator).split(self.batch_size):
            yield self.inputs_NK[index_B], self.labels_NL[index_B]


class LabelClusterDataModule(LightningDataModule):
    """Training and validation batches of one label cluster; refuses one without a training row.

    Args:
        inputs_NK: (N, K) float32, all rows of the data set.
        labels_NL: (N, L) bool, the columns of the cluster only.
        drop_rows: leaves out rows without a label of the cluster (Nasiri & Daneshpour, step 3); validation keeps its
            rows if none has one.
        batch_size: rows of a training step; None takes all.
    """

    def __init__(
        self, inputs_NK: Tensor, labels_NL: np.ndarray, split: RowSplit, drop_rows: bool = True,
        batch_size: int | None = 128, seed: int = 0, stream: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.batch_size, self.seed, self.stream = batch_size, seed, stream
        kept_N = np.logical_or(labels_NL.any(axis=1), not drop_rows)
        train, validation = (rows[kept_N[rows]] for rows in (split.train, split.validation))
        if len(train) == 0:
            raise InputError("a label cluster without a training row", "at least one", "ask for fewer label clusters")
        validation = validation if len(validation) else split.validation
        labels = torch.from_numpy(labels_NL).float()
        self.train, self.validation = ((inputs_NK[rows], labels[rows]) for rows in (train, validation))

    def train_dataloader(self) -> RowBatches:
        """Shuffled batches: (B, K) inputs, (B, L) labels as 0.0 or 1.0."""
        trainer = self.trainer
        epoch = (lambda: trainer.current_epoch) if trainer else (lambda: 0)
        return RowBatches(*self.train, self.batch_size, self.seed, self.stream, epoch)

    def val_dataloader(self) -> RowBatches:
        return RowBatches(*self.validation, 1024)
