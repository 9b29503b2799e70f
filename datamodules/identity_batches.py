# SPDX-License-Identifier: MIT
"""Batches with several images of each of their identities, as triplets need them.

Axes: N samples, B batch, D embedding dimension, S side of a crop.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.alignment import Aligner
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import Listing, Source, apply_mark, original_of


class IdentityBatches:
    """Batch sampler: an epoch visits each identity with two or more samples once. The order depends on (seed, epoch).

    Args:
        labels_N: label of each sample of the data set.
        identities_per_batch: at most, and at least 2; batches are of about equal size.
        images_per_identity: at most, and at least 2, drawn anew each epoch.

    Raises:
        InputError: numbers below 2, or fewer than two identities with two or more samples.
    """

    def __init__(
        self, labels_N: np.ndarray, identities_per_batch: int = 45, images_per_identity: int = 40, seed: int = 0
    ):
        self.identities_per_batch, self.images_per_identity = identities_per_batch, images_per_identity
        for name, value in vars(self).items():
            if value < 2:
                raise InputError(f"{name} = {value}", "at least 2, or there is no triplet", f"raise {name}")
        order = np.argsort(labels_N, kind="stable")
        _, starts = np.unique(labels_N[order], return_index=True)
        self.groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
        if len(self.groups) < 2:
            got = f"{len(self.groups)} identities with two or more training images"
            raise InputError(got, "at least two", "give more data")
        self.seed, self.epoch = seed, 0

    @property
    def sampler(self) -> "IdentityBatches":
        """Lightning calls `batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        # Fewer, if a batch would hold a single identity, which has no negative.
        return max(1, min(-(-len(self.groups) // self.identities_per_batch), len(self.groups) // 2))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        for chosen in np.array_split(random.permutation(len(self.groups)), len(self)):
            drawn = [random.permutation(self.groups[group])[: self.images_per_identity] for group in chosen]
            yield np.concatenate(drawn).tolist()


class EmbeddingRows(Dataset):
    """Ascending rows of an EmbeddingSet with their labels."""

    kind = "embeddings"

    def __init__(self, embedding_set: EmbeddingSet, rows_N: np.ndarray):
        self.embedding_set, self.rows_N = embedding_set, rows_N
        self.labels_N = np.asarray(embedding_set.labels[rows_N])

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitems__(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch at once: (B, D) float32, (B,) int64 labels."""
        rows = np.asarray(self.embedding_set.embeddings[self.rows_N[places]], np.float32)
        # A copy: torch's memory is aligned alike in every run, so that products round alike.
        return torch.tensor(rows), torch.from_numpy(self.labels_N[places].astype(np.int64))

    @staticmethod
    def collate(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, D) embeddings and (B,) labels, as `__getitems__` made them."""
        return batch


class ImageRows(Dataset):
    """Images of a listing with their labels, decoded and cropped on access.

    `flip` mirrors half of the crops at random, as FaceNet's training does.
    """

    kind = "images"

    def __init__(
        self, source: Source, listing: Listing, rows_N: np.ndarray, aligner: Aligner, flip: bool, seed: int = 0
    ):
        self.source, self.aligner, self.flip, self.seed = source, aligner, flip, seed
        self.names, self.labels_N = listing.names[rows_N], np.asarray(listing.labels[rows_N])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> tuple[Tensor, int] | None:
        """(S, S, 3) uint8 RGB and its label; None if the image cannot be used."""
        name = str(self.names[place])
        try:
            picture = decode(self.source.read(original_of(name))).pixels_HWC
            crop = apply_mark(self.aligner.main_face(picture).crop_SSC, name)
        except RejectedImage:
            return None
        if self.flip and torch.rand(()) < 0.5:
            crop = crop[:, ::-1]
        return torch.from_numpy(np.array(crop)), int(self.labels_N[place])

    @staticmethod
    def collate(items: list[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 and (B,) int64 labels of the usable images; refuses a batch without any."""
        usable = [item for item in items if item is not None]
        if not usable:
            raise InputError(f"a batch of {len(items)} images, none usable", "pictures", "check source and alignment")
        return torch.stack([crop for crop, _ in usable]), torch.tensor([label for _, label in usable])


Rows = EmbeddingRows | ImageRows


class IdentityDataModule(LightningDataModule):
    """Training batches by identity, drawn by the sampler `batches`, and the held-out samples in order."""

    def __init__(self, train: Rows, test: Rows, batches: IdentityBatches, num_workers: int = 0):
        super().__init__()
        self.train, self.test, self.batches, self.num_workers = train, test, batches, num_workers

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train, batch_sampler=self.batches)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.test, batch_size=256)

    def _loader(self, dataset: Rows, **how) -> DataLoader:
        collate: Any = dataset.collate
        return DataLoader(dataset, num_workers=self.num_workers, collate_fn=collate, **how)
