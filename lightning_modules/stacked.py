# SPDX-License-Identifier: MIT
"""Several sub-networks in one module and one optimiser step, for devices that one small sub-network cannot fill.

Axes: S sub-networks, B batch, C classes of the largest sub-network, D embedding dimension.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.stacked_batches import StackedBatch
from lightning_modules.fused import target_terms
from lightning_modules.heads import Head
from lightning_modules.kernels import BLOCK, PLAIN, Kernels, product
from lightning_modules.losses.base import ClassificationLoss, MarginLoss
from lightning_modules.schedules import learning_rate_factor


def can_stack(loss: ClassificationLoss) -> bool:
    """Whether sub-networks under this loss can be trained in a stack: margin losses of cosines alone, a row a class.

    Args:
        loss: of the sub-networks.
    """
    return isinstance(loss, MarginLoss) and loss.rows_per_class == 1 and not loss.needs_lengths


def stacked_margin_softmax(
    unit_SBD: Tensor,
    weight_SCD: Tensor,
    target_SB: Tensor,
    sample_weight_SB: Tensor,
    padding_SC: Tensor,
    loss: MarginLoss,
    precision: str = "highest",
    kernels: Kernels = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Losses of S heads and the gradients of their weighted sums, as `fused_margin_softmax` would give them one by one.

    Args:
        unit_SBD: (S, B, D) float32 embeddings of unit length.
        weight_SCD: (S, C, D) float32 class rows, of any length; zeros where a head has fewer classes.
        target_SB: (S, B) int64 in [0, classes of the head).
        sample_weight_SB: (S, B) float32, 0 where there is no sample.
        padding_SC: (S, C) bool, true where a head has no such class.
        loss: scale and target logit.
        precision: of the large products, see `lightning_modules.kernels.matmul_precision`.
        kernels: the passes over the large matrices.

    Returns:
        (S, B) losses without weights, and the (S, C, D) gradient by `weight_SCD` of the weighted sum of losses.
    """
    rows_SCD, length_SC1 = weight_SCD, None
    if loss.unit_rows:
        length_SC1 = torch.linalg.vector_norm(weight_SCD, dim=2, keepdim=True).clamp_min(1e-12)
        rows_SCD = weight_SCD / length_SC1
    column_SB1 = target_SB[..., None]
    own_SBD = rows_SCD.gather(1, column_SB1.expand(-1, -1, rows_SCD.shape[2]))
    cosine_SB = own_SBD.mul_(unit_SBD).sum(2)
    logit_SB, slope_SB, penalty_SB, penalty_slope_SB = target_terms(loss, cosine_SB)
    z_SBC = product(unit_SBD * loss.scale, rows_SCD.mT, precision)
    z_SBC.masked_fill_(padding_SC[:, None], -torch.inf).scatter_(2, column_SB1, logit_SB[..., None])
    highest_SB = z_SBC.amax(2)
    sum_SB = kernels.exponentials(z_SBC.flatten(0, 1), highest_SB.flatten()).view_as(highest_SB)
    e_SBC = z_SBC  # p times sum_SB, see `lightning_modules.fused`
    log_sum_SB = sum_SB.log() + highest_SB
    own_SB = ((logit_SB - log_sum_SB).exp() - 1) * slope_SB
    if penalty_SB is not None:
        own_SB += penalty_slope_SB
    own_SB *= sum_SB / loss.scale
    e_SBC.scatter_(2, column_SB1, own_SB[..., None])
    weighted_SBD = unit_SBD * (sample_weight_SB * loss.scale / sum_SB)[..., None]
    gradient_SCD = product(e_SBC.mT, weighted_SBD, precision)
    if length_SC1 is not None:
        gradient_cD = gradient_SCD.flatten(0, 1)
        place_bD = torch.empty_like(gradient_cD[: max(1, BLOCK // gradient_cD.shape[1])])
        kernels.project(gradient_cD, rows_SCD.flatten(0, 1), length_SC1.flatten(0, 1), 1.0, 1.0, place_bD)
    loss_SB = log_sum_SB - logit_SB
    return loss_SB if penalty_SB is None else loss_SB + penalty_SB, gradient_SCD


class StackedSubNetworks(LightningModule):
    """Trains S heads, each exactly as `lightning_modules.subnetwork.SubNetwork` would: own batches, own steps.

    Each head keeps a parameter, and so an optimiser state, of its own: where sub-networks have unequal numbers of
    batches, those that have none left stand still. The parameters are views of one padded tensor, so that all heads
    share their products. Nothing is logged: `take_losses` gives the loss of each head, and each head validates alone.

    Args:
        heads: of the sub-networks.
        loss: per-sample loss, one that `can_stack`.
        optimizer: as for `SubNetwork`; it must treat parameters independently of each other, as all of torch.optim do
            but L-BFGS.
        schedule: of the learning rate, see `lightning_modules.schedules`.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        loss: MarginLoss,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        schedule: str = "constant",
    ):
        super().__init__()
        self.automatic_optimization = False
        self.heads: Any = nn.ModuleList(heads)  # its items are `Head`, which ModuleList does not know
        self.loss, self.make_optimizer, self.schedule = loss, optimizer, schedule

    def configure_optimizers(self) -> Optimizer:
        """One optimiser; from here on, which is after the move to the device, the heads share one tensor."""
        sizes = [len(head.weight_CD) for head in self.heads]
        like = self.heads[0].weight_CD
        self.weight_SCD = torch.zeros((len(sizes), max(sizes), like.shape[1]), device=like.device)
        for row_CD, head in zip(self.weight_SCD, self.heads, strict=True):
            row_CD[: len(head.weight_CD)] = head.weight_CD.detach()
            head.weight_CD.data = row_CD[: len(head.weight_CD)]
        place_C = torch.arange(max(sizes), device=like.device)
        self.padding_SC = place_C >= torch.tensor(sizes, device=like.device)[:, None]
        self._loss_S = torch.zeros(len(sizes), device=like.device)
        parameters: list[Any] = [head.weight_CD for head in self.heads]
        # A schedule runs over a sub-network's own steps, so each needs its own rate; else one group is faster.
        if self.schedule != "constant":
            parameters = [{"params": [parameter]} for parameter in parameters]
        return self.make_optimizer(parameters)

    def training_step(self, batch: StackedBatch, batch_index: int) -> None:
        """One optimiser step of every sub-network that has a batch left."""
        optimizer, trainer = self.trainer.optimizers[0], self.trainer
        if self.schedule != "constant":
            parts = trainer.train_dataloader.parts
            for group, part, active in zip(optimizer.param_groups, parts, batch.active_S, strict=True):
                if not active:
                    continue
                done, steps = trainer.current_epoch * len(part) + batch_index, trainer.max_epochs * len(part)
                group["lr"] = optimizer.defaults["lr"] * learning_rate_factor(self.schedule, done, steps)
        with torch.no_grad():
            loss_SB, gradient_SCD = stacked_margin_softmax(
                batch.unit_SBD, self.weight_SCD, batch.target_SB, batch.weight_SB, self.padding_SC, self.loss,
                self.heads[0].precision, self.heads[0].kernels,
            )  # fmt: skip
            self._loss_S += torch.where(batch.weight_SB > 0, loss_SB, 0).sum(1)
        for head, gradient_CD, active in zip(self.heads, gradient_SCD, batch.active_S, strict=True):
            head.weight_CD.grad = gradient_CD[: len(head.weight_CD)] if active else None
        optimizer.step()

    def take_losses(self) -> Tensor:
        """(S,) sum of training losses over the samples since the last call."""
        taken, self._loss_S = self._loss_S, torch.zeros_like(self._loss_S)
        return taken
