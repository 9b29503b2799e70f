# SPDX-License-Identifier: MIT
"""A sub-network: a head, its loss and its optimiser. Axes: B batch, C classes, D embedding dimension."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.cluster_datamodule import Batch
from lightning_modules.heads.base import Head
from lightning_modules.heads.linear import LinearHead
from lightning_modules.kernels import unit_rows
from lightning_modules.losses.base import ClassificationLoss


class SubNetwork(LightningModule):
    """Trains one head on frozen embeddings.

    Logs `train/loss`, `val/loss`, `val/accuracy_percent` and `learning_rate` once per epoch. `optimizer` makes an
    optimiser from parameter groups, as `functools.partial(torch.optim.Adam, lr=1e-3)`; for `scheduler` see
    `lightning_modules.schedulers`.
    """

    head: Head

    def __init__(
        self,
        head: Head,
        loss: ClassificationLoss,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler | None] | None = None,
    ):
        super().__init__()
        self.head, self.loss, self.make_optimizer, self.make_scheduler = head, loss, optimizer, scheduler
        self._train_sum, self._val_sum = _Sums(1), _Sums(2)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Scores of all classes, (B, C) float32, of embeddings of any length and floating dtype."""
        return self.head(unit_rows(embedding_BD))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of a batch, a scalar; under DDP the mean over ranks is that of the whole batch."""
        unit_BD, target_B, length_B, weight = batch
        total = self.head.loss(unit_BD, target_B, self._loss_of(length_B)).sum()
        if weight:
            self._train_sum.add(len(target_B), total.detach())
        self._learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return total * (weight / len(target_B))

    def _loss_of(self, length_B: Tensor) -> ClassificationLoss:
        if not self.loss.needs_lengths:
            return self.loss
        row_length_C = self.head.weight().norm(dim=1) if isinstance(self.head, LinearHead) else None
        return self.loss.for_lengths(length_B, row_length_C)

    def on_train_epoch_start(self) -> None:
        self.loss.epoch_starts(self.current_epoch, self.trainer.max_epochs or 0)

    def on_train_batch_end(self, *_: Any) -> None:
        """After the last batch of an epoch, logs what was summed up: a log call per step would cost 0.3 ms each."""
        if self.trainer.is_last_batch:
            (loss,) = self._means(self._train_sum)
            values = {"train/loss": loss, "learning_rate": self._learning_rate}
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        if not batch.weight:
            return  # it only repeats a sample that another rank counts
        # Scores and their exponentials together take no more than those of a training step.
        at_once = max(1, self.head.max_logits_bytes // (8 * self.head.n_classes * self.head.rows_per_class))
        for unit_bD, target_b, length_b in zip(*(part.split(at_once) for part in batch[:3]), strict=True):
            loss_b, hit_b = self.head.judge(unit_bD, target_b, self._loss_of(length_b))
            self._val_sum.add(len(target_b), loss_b.sum(), hit_b.sum())

    def on_validation_epoch_end(self) -> None:
        loss, accuracy = self._means(self._val_sum)
        self.log("val/loss", loss)
        self.log("val/accuracy_percent", 100 * accuracy)

    def _means(self, sums: "_Sums") -> Tensor:
        # Over all ranks: each has seen its own samples only.
        total = self.trainer.strategy.reduce(sums.take(self.device), reduce_op="sum")
        return total[1:] / total[0]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clears every gradient; see `LinearHead.recycle_gradient`. Under DDP a bucket owns the memory."""
        if isinstance(self.head, LinearHead) and self.trainer.world_size == 1:
            self.head.recycle_gradient()
        optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None, "a sub-network made without optimizer= is for inference"
        groups = self.head.parameter_groups()
        groups[0]["params"] = [*groups[0]["params"], *self.loss.parameters()]
        optimizer = self.make_optimizer(groups)
        takes_steps = self.make_scheduler and "total_steps" in inspect.signature(self.make_scheduler).parameters
        arguments = {"total_steps": self.total_steps()} if takes_steps else {}
        scheduler = self.make_scheduler(optimizer, **arguments) if self.make_scheduler else None
        if scheduler is None:
            return optimizer
        how: dict[str, Any] = {"scheduler": scheduler, "interval": "step" if takes_steps else "epoch"}
        if isinstance(scheduler, ReduceLROnPlateau):
            how["monitor"] = "val/loss"
        return {"optimizer": optimizer, "lr_scheduler": how}

    def total_steps(self) -> int:
        """Optimiser steps of the whole fit."""
        return int(self.trainer.estimated_stepping_batches)


class _Sums:
    """Sums on the device, read once per epoch: a read per step would wait for the device."""

    def __init__(self, values: int):
        self.values, self.count = values, 0
        self.sums: tuple[Tensor, ...] = ()

    def add(self, count: int, *sums: Tensor) -> None:
        """Adds sums over `count` samples, each a scalar."""
        self.sums = sums if not self.count else tuple(a + b for a, b in zip(self.sums, sums, strict=True))
        self.count += count

    def take(self, device: torch.device) -> Tensor:
        """(1 + values,) float32: the number of samples and the sums; starts again from nothing."""
        taken = torch.zeros(1 + self.values, device=device)
        taken[0] = self.count
        if self.sums:
            taken[1:] = torch.stack([value.float() for value in self.sums])
        self.count, self.sums = 0, ()
        return taken
