# SPDX-License-Identifier: MIT
"""One perceptron per label. Axes: B batch, K inputs, L labels (networks of the stack), H hidden units."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag

from lightning_modules.multilabel import LabelNetwork, Perceptron

_SPARSE = 0.1  # below this share of values other than 0 a batch is cheaper row by row than as a dense product


class SeparatePerceptrons(nn.Module):
    """L perceptrons of one output each, computed together by batched products; equal to each alone.

    Args:
        singles: the perceptrons whose weights it takes, all of one shape.
        dropout: share of hidden units that a training step leaves out, in steps of 2^-16.
    """

    def __init__(self, singles: Sequence[Perceptron], dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        layers = [[layer for layer in single if isinstance(layer, nn.Linear)] for single in singles]
        first, *middle, last = zip(*layers, strict=True)
        self.first_KLH = nn.Parameter(torch.stack([layer.weight.detach().T for layer in first], dim=1))
        self.first_bias_LH = nn.Parameter(torch.stack([layer.bias.detach() for layer in first]))
        self.weights_LHH = nn.ParameterList(torch.stack([layer.weight.detach().T for layer in each]) for each in middle)
        biases = (torch.stack([layer.bias.detach()[None] for layer in each]) for each in middle)
        self.biases_L1H = nn.ParameterList(biases)
        self.last_LH = nn.Parameter(torch.stack([layer.weight.detach()[0] for layer in last]))
        self.last_bias_L = nn.Parameter(torch.cat([layer.bias.detach() for layer in last]))

    def forward(self, inputs_BK: Tensor) -> Tensor:
        """Logits: (B, L)."""
        units_BLH = self._first(inputs_BK).unflatten(1, self.first_bias_LH.shape)
        units_LBH = self._activate(units_BLH).transpose(0, 1)
        for weights_LHH, biases_L1H in zip(self.weights_LHH, self.biases_L1H, strict=True):
            units_LBH = self._activate(torch.baddbmm(biases_L1H, units_LBH, weights_LHH))
        return torch.einsum("lbh,lh->bl", units_LBH, self.last_LH) + self.last_bias_L

    def _first(self, inputs_BK: Tensor) -> Tensor:
        """(B, L H): the dense product, or the same sum over the inputs that are not 0."""
        weights, biases = self.first_KLH.flatten(1), self.first_bias_LH.flatten()
        rows, columns = inputs_BK.nonzero(as_tuple=True)
        if len(rows) > _SPARSE * inputs_BK.numel():
            return torch.addmm(biases, inputs_BK, weights)
        starts_B = torch.searchsorted(rows, torch.arange(len(inputs_BK), device=rows.device))
        values = inputs_BK[rows, columns]
        return embedding_bag(columns, weights, starts_B, mode="sum", per_sample_weights=values) + biases

    def _activate(self, units: Tensor) -> Tensor:
        units = torch.relu(units)
        if not self.training or self.dropout == 0:
            return units
        # A fourth of a 64-bit number decides per unit: torch's own dropout would take most of the training time.
        words = torch.empty(math.ceil(units.numel() / 4), dtype=torch.int64, device=units.device)
        bits = words.random_(-(2**63), None).view(torch.int16)[: units.numel()].view(units.shape)
        kept = (bits >= round(self.dropout * 2**16) - 2**15).to(units.dtype)
        return units * kept.mul_(1 / (1 - self.dropout))

    @staticmethod
    def label_axis(name: str) -> int:
        """Which axis of a parameter counts the labels."""
        return 1 if name == "first_KLH" else 0


class SeparateTraining(LabelNetwork):
    """Trains a stack, each of its networks as if it were alone: with weights of its own best epoch and its own end.

    A network whose validation loss has not fallen for `patience` epochs leaves the stack until the fit ends; None
    trains all to the end and keeps their last weights. `epochs_L` tells how many epochs each was trained. Logs
    train/loss and val/loss in nats per row, the mean over the networks still in training.
    """

    network: SeparatePerceptrons

    def __init__(self, network: SeparatePerceptrons, learning_rate: float, patience: int | None = None):
        super().__init__(network, learning_rate)
        self.patience = patience
        self.kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
        labels = len(network.last_bias_L)
        self.active = torch.arange(labels)
        self.best_L, self.best_epoch_L = torch.full((labels,), math.inf), torch.zeros(labels, dtype=torch.int64)
        self.epochs_L = torch.zeros(labels, dtype=torch.int64)

    def _losses(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        inputs_BK, labels_BL = batch
        labels_BL = labels_BL[:, self.active.to(labels_BL.device)]
        losses_BL = binary_cross_entropy_with_logits(self(inputs_BK), labels_BL, reduction="none")
        self.log(f"{stage}/loss", losses_BL.detach().mean(), on_step=False, on_epoch=True, batch_size=len(labels_BL))
        return losses_BL

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """The loss of a batch: the sum over networks of the mean over rows."""
        return self._losses(batch, "train").sum() / len(batch[1])

    def on_validation_epoch_start(self) -> None:
        self._validation_L = torch.zeros(len(self.active))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._validation_L += self._losses(batch, "val").sum(dim=0).cpu()

    def on_validation_epoch_end(self) -> None:
        active, epoch = self.active, self.current_epoch
        self.epochs_L[active] = epoch + 1
        if self.patience is None:
            return
        better = self._validation_L < self.best_L[active]
        self.best_L[active[better]], self.best_epoch_L[active[better]] = self._validation_L[better], epoch
        self._keep(better)
        going = epoch - self.best_epoch_L[active] < self.patience
        if not going.any():
            self.trainer.should_stop = True
        elif not going.all():
            self._narrow(going)

    def on_fit_end(self) -> None:
        if self.patience is None:
            return
        for name, value in self.network.named_parameters():
            value.data = self.kept[name].to(value.device)

    def _keep(self, chosen: Tensor) -> None:
        places, labels = chosen.nonzero().flatten(), self.active[chosen]
        for name, value in self.network.named_parameters():
            axis = self.network.label_axis(name)
            self.kept[name].index_copy_(axis, labels, value.detach().index_select(axis, places.to(value.device)).cpu())

    def _narrow(self, going: Tensor) -> None:
        """Takes networks out of the stack, and out of Adam's state."""
        places, state = going.nonzero().flatten(), self.trainer.optimizers[0].state
        for name, value in self.network.named_parameters():
            axis, chosen = self.network.label_axis(name), places.to(value.device)
            value.data, value.grad = value.data.index_select(axis, chosen), None
            for key in ("exp_avg", "exp_avg_sq"):
                state[value][key] = state[value][key].index_select(axis, chosen)
        self.active = self.active[going]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with its usual betas, in one pass over the weights: most of a step's time is theirs."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)
