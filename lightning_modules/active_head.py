# SPDX-License-Identifier: MIT
"""A head of which only some rows take part in a step, and the optimiser that touches no other row.

Axes: B batch, C classes, A active classes, R rows per class, D embedding dimension.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.cluster_datamodule import Batch
from lightning_modules.active_classes import ActiveClasses
from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.subnetwork import SubNetwork


class ActiveHead(LinearHead):
    """A head whose loss sees the rows of a step's active classes only.

    A step works on a copy of the active rows: neither time nor memory grows with the other rows.
    `ActiveRowsOptimizer` moves the copy and writes it back.
    """

    def __init__(self, rows_CD: Tensor, active: ActiveClasses, seed: int = 0, **more: Any):
        super().__init__(rows_CD, **more)
        self.active, self.seed, self.step = active, seed, (0, 0)
        self.chosen: tuple[Tensor, nn.Parameter] | None = None  # places of the active rows, and their copy

    def choose(self, embedding_BD: Tensor, target_B: Tensor) -> Tensor | None:
        """Active classes of the step `self.step` = (epoch, batch): (A,) int64 ascending; None for all."""
        seed = np.random.SeedSequence([self.seed, *self.step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) >> 1)
        return self.active.choose(self.n_classes, target_B, embedding_BD, self.weight_CD.detach(), generator)

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        active_A, self.chosen = self.choose(embedding_BD, target_B), None
        if active_A is None:
            return super().loss(embedding_BD, target_B, loss)
        row_of_class_R = torch.arange(self.rows_per_class, device=active_A.device)
        index = (active_A[:, None] * self.rows_per_class + row_of_class_R).flatten()
        options = ("unit_rows", "precision", "max_logits_bytes", "rows_per_class")
        part = LinearHead(self.weight_CD[index], **{name: getattr(self, name) for name in options})
        part.scratch = self.scratch
        self.chosen = index, part.weight_CD
        return part.loss(embedding_BD, torch.searchsorted(active_A, target_B), loss)


class ActiveRowsOptimizer(Optimizer):
    """Lets another optimiser move the active rows of a head, with their part of its state, and nothing else.

    Rows that are not active keep weight and moments (no decay, no momentum), as in the first version of Partial FC.
    The counter of steps is that of the whole head.

    Args:
        inner: optimiser over the parameters of a module that holds `head`.
    """

    def __init__(self, inner: Optimizer, head: ActiveHead):
        self.inner, self.head = inner, head
        super().__init__(inner.param_groups, inner.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        if self.head.chosen is None:
            self.inner.step()
            return value
        index, rows_AD = self.head.chosen
        whole_CD, states = self.head.weight_CD, self.inner.state
        state = states.pop(whole_CD, {})
        states[rows_AD] = {name: one[index] if _of_rows(one, whole_CD) else one for name, one in state.items()}
        self._replace(whole_CD, rows_AD)
        try:
            self.inner.step()
        finally:
            self._replace(rows_AD, whole_CD)
        with torch.no_grad():
            whole_CD[index] = rows_AD
            for name, one in states.pop(rows_AD).items():
                if _of_rows(one, rows_AD):
                    state.setdefault(name, torch.zeros_like(whole_CD))[index] = one
                else:
                    state[name] = one
        states[whole_CD] = state
        return value

    def _replace(self, old: Tensor, new: Tensor) -> None:
        for group in self.inner.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]


def _of_rows(value: Any, rows: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == rows.shape


class ActiveSubNetwork(SubNetwork):
    """A sub-network with an `ActiveHead`, whose optimiser moves active rows only."""

    head: ActiveHead

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.head.step = (self.current_epoch, batch_index)
        return super().training_step(batch, batch_index)

    def __init__(self, head: ActiveHead, loss: ClassificationLoss, optimizer: Any = None, scheduler: Any = None):
        def confined(groups: list[dict[str, Any]]) -> Optimizer:
            return ActiveRowsOptimizer(optimizer(groups), head)

        super().__init__(head, loss, optimizer and confined, scheduler)
