# SPDX-License-Identifier: MIT
"""A sub-network: L2-normalised embeddings, a linear head over the classes of one cluster, a loss, an optimiser.

Axes: B batch, C classes, D embedding dimension.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from datamodules.cluster_datamodule import Batch
from lightning_modules.heads import Head
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.schedules import learning_rate_factor

# Between two calls of `training_step` Lightning works for 0.6 ms on a CPU, a fifth of a step of 256 samples and 2,000
# classes. Hooks on a training batch are called as often as `training_step`.
STEPS_AT_ONCE = 16


class SubNetwork(LightningModule):
    """Trains one head on frozen embeddings; the same module at C = 2,000 of a cluster and C = N of no distribution.

    Logged once per epoch: `train/loss`, `val/loss`, `val/accuracy_percent` (percent), `learning_rate`.

    Args:
        head: the class rows.
        loss: per-sample loss on the head's outputs.
        optimizer: makes an optimiser from parameters, `functools.partial(torch.optim.Adam, lr=1e-3, ...)`.
        schedule: of the learning rate, see `lightning_modules.schedules`.
    """

    head: Head

    def __init__(
        self,
        head: Head,
        loss: ClassificationLoss,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] | None = None,
        schedule: str = "constant",
    ):
        super().__init__()
        self.automatic_optimization = False
        self.head, self.loss, self.make_optimizer, self.schedule = head, loss, optimizer, schedule
        self._train_sum, self._val_sum = _Sums(1), _Sums(2)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Outputs of all classes.

        Args:
            embedding_BD: (B, D) embeddings of any length, any floating dtype.

        Returns:
            (B, C) float32.
        """
        return self.head(F.normalize(embedding_BD.float()))

    def training_step(self, dataloader_iter: Iterator) -> dict[str, int]:
        """Optimiser steps on the next batches, `STEPS_AT_ONCE` of them; the gradients of several ranks are averaged.

        Args:
            dataloader_iter: of (batch, its number in the epoch, 0).

        Returns:
            `samples` that were seen; without a "loss", since the steps are done.
        """
        optimizer, alone = self.trainer.optimizers[0], self.trainer.world_size == 1
        steps = samples = 0
        for batch, index, _ in islice(dataloader_iter, STEPS_AT_ONCE if alone else 1):
            self.before_step(index)
            self.manual_backward(self.batch_loss(batch, index))
            optimizer.step()
            self.after_step()
            if alone:  # lets the next step write its gradient where this one's was; under DDP it belongs to a bucket
                self.head.scratch.give(self.head.weight_CD.grad)
            optimizer.zero_grad()
            steps, samples = steps + 1, samples + len(batch.target_B)
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped += steps - 1  # the step of loggers, of which Lightning counts one for each call
        loop.manual_optimization.optim_step_progress.total.completed += steps  # `trainer.global_step`
        return {"samples": samples}

    def before_step(self, batch_index: int) -> None:
        """Sets the learning rate of a step.

        Args:
            batch_index: of its batch in the epoch.
        """
        if self.schedule != "constant":
            done = int(self.trainer.current_epoch * self.trainer.num_training_batches) + batch_index
            all_steps = int(self.trainer.max_epochs * self.trainer.num_training_batches)
            optimizer = self.trainer.optimizers[0]
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * learning_rate_factor(self.schedule, done, all_steps)

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def batch_loss(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of a batch, to be differentiated; adds it to the mean of the epoch.

        Args:
            batch: samples of the step.
            batch_index: its number in the epoch.

        Returns:
            A scalar, float32, with a gradient.
        """
        unit_BD, target_B, length_B = batch
        loss_B = self.head.loss(unit_BD, target_B, self._loss_of(length_B))
        weight = self.trainer.train_dataloader.weight(batch_index) if self.trainer.world_size > 1 else 1.0
        total = loss_B.sum()
        if weight:
            self._train_sum.add(len(target_B), total.detach())
        return total * (weight / len(target_B))

    def _loss_of(self, length_B: Tensor) -> ClassificationLoss:
        if not self.loss.needs_lengths:
            return self.loss
        return self.loss.for_lengths(length_B, self.head.weight_CD.norm(dim=1))

    def on_train_batch_end(self, *_) -> None:
        """After the last batch of an epoch, logs what was summed up: a log call per step would cost 0.3 ms each."""
        if self.trainer.is_last_batch:
            (loss,) = self._means(self._train_sum)
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log_dict({"train/loss": loss, "learning_rate": rate}, on_step=False, on_epoch=True, batch_size=1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Adds up loss and hits of a batch."""
        if self.trainer.world_size > 1 and not self.trainer.val_dataloaders.weight(batch_index):
            return  # this rank's batch only repeats a sample that another rank counts
        rows_CD = self.head.rows()
        # Outputs and their exponentials together take no more than those of a training step.
        at_once = max(1, self.head.max_logits_bytes // (8 * len(rows_CD)))
        for unit_bD, target_b, length_b in zip(*(part.split(at_once) for part in batch), strict=True):
            loss_b, hit_b = self.head.judge(unit_bD, target_b, self._loss_of(length_b), rows_CD)
            self._val_sum.add(len(target_b), loss_b.sum(), hit_b.sum())

    def on_validation_epoch_end(self) -> None:
        """Logs mean loss and accuracy in percent over the validation samples."""
        loss, accuracy = self._means(self._val_sum)
        self.log("val/loss", loss)
        self.log("val/accuracy_percent", 100 * accuracy)

    def _means(self, sums: "_Sums") -> Tensor:
        # Together over all ranks: each has seen its own samples only.
        total = self.trainer.strategy.reduce(sums.take(self.device), reduce_op="sum")
        return total[1:] / total[0]

    def configure_optimizers(self) -> Optimizer:
        """The optimiser over the class rows."""
        assert self.make_optimizer is not None, "a sub-network made without optimizer= is for inference"
        return self.make_optimizer(self.parameters())


class _Sums:
    """Sums on the device, read once per epoch: a read per step would wait for the device.

    Args:
        values: how many are added up.
    """

    def __init__(self, values: int):
        self.values, self.count = values, 0
        self.sums: tuple[Tensor, ...] = ()

    def add(self, count: int, *sums: Tensor) -> None:
        """Adds the sums over `count` samples."""
        self.sums = sums if not self.count else tuple(a + b for a, b in zip(self.sums, sums, strict=True))
        self.count += count

    def take(self, device: torch.device) -> Tensor:
        """(1 + values,) float32: the number of samples and the sums; starts again from nothing."""
        sums = [value.float() for value in self.sums] or [
            torch.zeros((), device=device, dtype=torch.float)
        ] * self.values
        taken = torch.stack([torch.tensor(self.count, device=device, dtype=torch.float), *sums])
        self.count, self.sums = 0, ()
        return taken
