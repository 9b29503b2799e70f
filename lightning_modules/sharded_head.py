# SPDX-License-Identifier: MIT
"""One head over several processes: each holds a part of the classes, and the softmax is completed between them.

Every rank sees the whole batch; `fused_margin_softmax` says what the ranks tell each other. Axes: B samples of the
whole batch, C classes in all, c of this rank, D embedding dimension.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from datamodules.cluster_datamodule import Batch
from datamodules.errors import InputError
from lightning_modules.active_classes import ActiveClasses, EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.losses.base import ClassificationLoss, MarginLoss


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def shard(classes: int, rank: int, world_size: int) -> slice:
    """The classes of a rank: parts in order, of sizes that differ by one at most.

    >>> [shard(10, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(classes * rank // world_size, classes * (rank + 1) // world_size)


def gather_rows(value_cD: Tensor, classes: int) -> Tensor:
    """(C, D) rows of all classes from the (c, D) parts that the ranks hold; every rank must call it."""
    _, world = ranks()
    if world == 1:
        return value_cD
    sizes = [len(range(classes)[shard(classes, rank, world)]) for rank in range(world)]
    padded, *parts = (value_cD.new_zeros(max(sizes), *value_cD.shape[1:]) for _ in range(1 + world))
    padded[: len(value_cD)] = value_cD
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def all_reduce(value: Tensor, operation: str) -> Tensor:
    """Overwrites a tensor of any shape by its sum or maximum ("sum", "max") over the ranks, and returns it."""
    if ranks()[1] > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
    return value


class ShardedHead(ActiveHead):
    """A head of which this rank holds its share of the classes, with their gradients and optimiser state.

    Args:
        rows_CD: starting rows of all classes, the same on every rank.
        **more: further arguments of `Head`.

    Raises:
        InputError: several rows per class, or a choice of classes that looks at the rows.
    """

    def __init__(
        self, rows_CD: Tensor, active: ActiveClasses | None = None, seed: int = 0, rank: int = 0, world_size: int = 1,
        **more: Any,
    ):  # fmt: skip
        own, active = shard(len(rows_CD), rank, world_size), active or EveryClass()
        if more.get("rows_per_class", 1) > 1 or active.needs_rows:
            got = f"{more.get('rows_per_class', 1)} rows per class, {type(active).__name__}, with sharded classes"
            cure = "choose trainer.strategy=ddp, or another loss or active_classes"
            raise InputError(got, "one row per class and a choice that does not look at the rows", cure)
        super().__init__(rows_CD[own], active, seed, **more)
        self.own, self.n_classes = own, len(rows_CD)  # the classes of all ranks

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """See `Head.loss`; every rank must pass the whole batch."""
        active_A, self.chosen = self.choose(embedding_BD, target_B), None
        if active_A is None:
            return self.full_loss(embedding_BD, target_B, loss)
        mine_A = active_A[(active_A >= self.own.start) & (active_A < self.own.stop)] - self.own.start
        part = nn.Parameter(self.weight_CD.detach()[mine_A])
        self.chosen = mine_A, part
        place_B = self._place(target_B)
        place_B = torch.where(place_B < 0, -1, torch.searchsorted(mine_A, place_B))
        return self._loss(embedding_BD, part, place_B, loss)

    def full_loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample of the whole batch among all classes: (B,)."""
        return self._loss(embedding_BD, self.weight_CD, self._place(target_B), loss)

    def _place(self, target_B: Tensor) -> Tensor:
        return torch.where((target_B >= self.own.start) & (target_B < self.own.stop), target_B - self.own.start, -1)

    def _loss(self, embedding_BD: Tensor, weight_cD: Tensor, place_B: Tensor, loss: ClassificationLoss) -> Tensor:
        if not isinstance(loss, MarginLoss) or loss.needs_lengths or next(loss.parameters(), None) is not None:
            expected = "a loss without parameters whose true logit alone is special"
            cure = "choose trainer.strategy=ddp, or another loss such as arcface"
            raise InputError(f"{type(loss).__name__} with classes sharded over ranks", expected, cure)
        options = self.precision, self.max_logits_bytes
        return fused_margin_softmax(embedding_BD, weight_cD, place_B, loss, *options, reduce=all_reduce)

    def best(self, embedding_BD: Tensor) -> Tensor:
        """The class of the highest output over all ranks, the same on every rank: (B,) int64; of equals any."""
        output_Bc = self(embedding_BD)
        if self.weight_CD.shape[0]:
            highest_B, place_B = output_Bc.max(1)
        else:
            highest_B = embedding_BD.new_full((len(embedding_BD),), -torch.inf)
            place_B = torch.zeros_like(highest_B, dtype=torch.long)
        overall_B = all_reduce(highest_B.clone(), "max")
        # Ranks with equal outputs must agree: on the lowest class, as a maximum of negative numbers.
        candidate_B = torch.where(highest_B == overall_B, -(place_B + self.own.start), -self.n_classes)
        return -all_reduce(candidate_B, "max")


class ShardedSubNetwork(ActiveSubNetwork):
    """A sub-network whose head is a `ShardedHead`: every rank computes the whole batch against its own classes.

    Its data must be served whole to every rank (`ClusterDataModule.shared = False`).
    """

    head: ShardedHead

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss_B = self.head.full_loss(batch.unit_BD, batch.target_B, self.loss)
        hits = (self.head.best(batch.unit_BD) == batch.target_B).sum()
        self._val_sum.add(len(batch.target_B), loss_B.sum(), hits)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # One tensor at a time, to the CPU: a device that cannot hold all rows cannot hold all moments either.
        own = self.head.weight_CD.shape
        _change_rows(checkpoint, lambda value: gather_rows(value, self.head.n_classes).cpu(), own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        whole = (self.head.n_classes, self.head.weight_CD.shape[1])
        _change_rows(checkpoint, lambda value: value[self.head.own], whole)

    def whole_state(self) -> dict[str, Tensor]:
        """State dict of one process, on the CPU; every rank must call it."""
        checkpoint: dict[str, Any] = {"state_dict": self.state_dict(), "optimizer_states": []}
        self.on_save_checkpoint(checkpoint)
        return checkpoint["state_dict"]


def _change_rows(checkpoint: dict[str, Any], change: Callable[[Tensor], Tensor], shape: Iterable[int]) -> None:
    # The rows, and what the optimiser keeps of each of their numbers; its own tables are live, so new ones are made.
    def changed(table: dict[str, Any]) -> dict[str, Any]:
        ours = {name for name, value in table.items() if isinstance(value, Tensor) and value.shape == tuple(shape)}
        return {name: change(value) if name in ours else value for name, value in table.items()}

    checkpoint["state_dict"] = changed(checkpoint["state_dict"])
    for one in checkpoint["optimizer_states"]:
        one["state"] = {index: changed(table) for index, table in one["state"].items()}


class ModelParallel(DDPStrategy):
    """Lightning's process group without its gradient averaging: every rank's rows are its own."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is; nothing is to be averaged."""
