# SPDX-License-Identifier: MIT
"""The training samples for partitioners and losses.

Axes: N samples, B samples of a block, D embedding dimension, K identities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.class_means import normalise_rows
from datamodules.embedding_set import CHUNK_ROWS
from datamodules.lazy import short_repr
from datamodules.splits import Split


@dataclass(frozen=True)
class TrainingSamples:
    """Embeddings of the training split: rows of the whole set, memory-mapped or not, and which of them train."""

    embeddings_ND: np.ndarray
    split: Split

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.split)

    def blocks(self, rows: int = CHUNK_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All samples in order, a block at a time: (B, D) float32 unit rows and (B,) int32 identities."""
        for start in range(0, len(self.split), rows):
            block = slice(start, start + rows)
            yield normalise_rows(self.embeddings_ND[self.split.rows[block]]), self.split.labels[block]

    def counts(self, classes: int = 0) -> np.ndarray:
        """(C,) int64 number of samples of each class."""
        return np.bincount(self.split.labels, minlength=classes)

    def lengths(self) -> np.ndarray:
        """(N,) float32 lengths of the stored embeddings."""
        length_N = np.empty(len(self.split), np.float32)
        for start in range(0, len(self.split), CHUNK_ROWS):
            block = slice(start, start + CHUNK_ROWS)
            rows = np.asarray(self.embeddings_ND[self.split.rows[block]], np.float64)
            length_N[block] = np.minimum(np.linalg.norm(rows, axis=1), np.finfo(np.float32).max)
        return length_N

    def drawn(self, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `most` samples, drawn without repetition: (N, D) unit rows and (N,) int32 identities."""
        chosen = np.arange(len(self.split))
        if len(chosen) > most:
            chosen = np.sort(np.random.default_rng([seed, 5]).choice(len(chosen), most, replace=False))
        return normalise_rows(self.embeddings_ND[self.split.rows[chosen]]), self.split.labels[chosen]
