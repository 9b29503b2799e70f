# SPDX-License-Identifier: MIT
"""Batches of several sub-networks at once: each gets, step by step, exactly the batches it would get alone.

Axes: S sub-networks, N samples of all of them, T steps of an epoch, B batch, D embedding dimension.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.cluster_datamodule import IndexBatches


class StackedBatch(NamedTuple):
    """Samples of one step of S sub-networks; places that are not filled have weight 0.

    Attributes:
        unit_SBD: (S, B, D) float32 embeddings of length 1.
        target_SB: (S, B) int64 local labels.
        weight_SB: (S, B) float32, 1 / batch size where there is a sample: weighted sums are means over a batch.
        active_S: for each sub-network, whether it still has a batch in this epoch.
    """

    unit_SBD: Tensor
    target_SB: Tensor
    weight_SB: Tensor
    active_S: tuple[bool, ...]


class StackedBatches:
    """Deals the batches of S `IndexBatches` side by side; Lightning takes it as a data loader.

    Args:
        parts: one per sub-network, each with its rows resident, of equal batch size and on one device.
    """

    batch_sampler = None

    def __init__(self, parts: Sequence[IndexBatches]):
        self.parts, self.batch_size, self.device = list(parts), parts[0].batch_size, parts[0].device
        self.unit_ND, self.target_N = (
            torch.cat([getattr(part.resident, name) for part in parts]) for name in ("unit_BD", "target_B")
        )
        sizes = torch.tensor([len(part.rows) for part in parts])
        self.offset_S = (sizes.cumsum(0) - sizes).tolist()
        for part in self.parts:
            part.resident = None  # held once, here

    @property
    def sampler(self) -> "StackedBatches":
        """Lightning announces each epoch to `loader.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass in every sub-network.

        Args:
            epoch: its number, from 0.
        """
        for part in self.parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return max(map(len, self.parts))

    def __iter__(self) -> Iterator[StackedBatch]:
        steps, width = len(self), self.batch_size
        index_TSB = torch.zeros((steps, len(self.parts), width), dtype=torch.long)
        weight_TSB = torch.zeros((steps, len(self.parts), width))
        for s, (part, offset) in enumerate(zip(self.parts, self.offset_S, strict=True)):
            for t, index_B in enumerate(part.order().split(width)):
                index_TSB[t, s, : len(index_B)] = index_B + offset
                weight_TSB[t, s, : len(index_B)] = 1 / len(index_B)
        index_TSB, weight_TSB = index_TSB.to(self.device), weight_TSB.to(self.device)
        for t in range(steps):
            index_SB = index_TSB[t]
            active = tuple(t < len(part) for part in self.parts)
            yield StackedBatch(self.unit_ND[index_SB], self.target_N[index_SB], weight_TSB[t], active)
