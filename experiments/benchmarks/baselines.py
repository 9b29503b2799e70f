# SPDX-License-Identifier: MIT
"""Other ways to train the same head on the same data, and the machine's own limits.

Axes: N samples, B batch, C classes, D embedding dimension.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from callbacks.epoch_clock import EpochClock
from callbacks.history import History
from datamodules.cluster_datamodule import IndexBatches
from experiments.benchmarks.measurement import seconds
from experiments.benchmarks.our_training import samples_per_second
from lightning_modules.kernels import matmul_precision

SCALE, MARGIN = 64.0, 0.5
FILL_SECONDS = 0.5  # of a measurement of a limit


@dataclass(frozen=True)
class Training:
    """Data and settings of a training: float32 unit vectors, int64 labels, steps of an epoch (None: all samples)."""

    embedding_ND: Tensor
    target_N: Tensor
    classes: int
    batch: int
    epochs: int
    steps: int | None
    precision: str
    device: str
    seed: int = 0


def adam(parameters) -> torch.optim.Adam:
    """Adam as in configs/optimizer/adam.yaml, fused as ours is."""
    return torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.99), fused=True)


class PmlHead(pl.LightningModule):
    """ArcFaceLoss of pytorch-metric-learning in a LightningModule, as its documentation shows it."""

    def __init__(self, classes: int, dim: int):
        super().__init__()
        from pytorch_metric_learning.losses import ArcFaceLoss
        from pytorch_metric_learning.utils.common_functions import TorchInitWrapper

        # Its default start, rows of length sqrt(D), turns sixteen times more slowly under the same learning rate.
        start = TorchInitWrapper(torch.nn.init.normal_, std=math.sqrt(2 / dim))
        self.loss = ArcFaceLoss(classes, dim, margin=math.degrees(MARGIN), scale=SCALE, weight_init_func=start)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        return self.loss(*batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.parameters())

    def accuracy(self, embedding_ND: Tensor, target_N: Tensor) -> float:
        """Share of samples, in percent, whose row has the highest cosine."""
        rows_DC = F.normalize(self.loss.W.detach(), dim=0)
        found_N = torch.cat([(embedding_BD @ rows_DC).argmax(1) for embedding_BD in embedding_ND.split(4096)])
        return 100 * float((found_N == target_N).float().mean())


def train_pml(training: Training, begin: tuple[Tensor, IndexBatches] | None = None) -> tuple[float, PmlHead]:
    """Lightning, TensorDataset, DataLoader and pytorch-metric-learning, as a user without this project would write it.

    Args:
        begin: (C, D) first rows and batches of ours, for a comparison of accuracy without differences by chance.

    Returns:
        Samples per second, and the trained module on the CPU.
    """
    torch.manual_seed(training.seed)
    order = {"shuffle": True} if begin is None else {"sampler": _OurOrder(begin[1])}
    samples = TensorDataset(training.embedding_ND, training.target_N)
    loader = DataLoader(samples, batch_size=training.batch, **order)
    head, history = PmlHead(training.classes, training.embedding_ND.shape[1]), History()
    if begin is not None:
        head.loss.W.data.copy_(begin[0].T)
    with matmul_precision(training.precision):
        trainer = pl.Trainer(
            max_epochs=training.epochs, accelerator=training.device, devices=1, logger=history,
            callbacks=[EpochClock()], enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_train_batches=training.steps,
        )  # fmt: skip
        trainer.fit(head, loader)
    return samples_per_second(history.records), head.cpu()


class _OurOrder(Sampler):
    def __init__(self, batches: IndexBatches):
        self.batches, self.passes = batches, itertools.count()
        batches.epoch = lambda: next(self.passes)

    def __len__(self) -> int:
        return len(self.batches.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.batches.order().tolist())


def insightface_logits(cosine_BC: Tensor, target_B: Tensor) -> Tensor:
    """(B, C) logits of insightface's arcface_torch: ArcFace whose slope is the scale, also for the true class."""
    cosine_BC = cosine_BC.clamp(-1, 1)
    with torch.no_grad():
        cosine_BC.arccos_()
        cosine_BC[torch.arange(len(target_B), device=target_B.device), target_B] += MARGIN
        cosine_BC.cos_()
    return cosine_BC * SCALE


def train_insightface(training: Training) -> float:
    """Samples per second of a plain PyTorch loop with insightface's logits, cross-entropy and batches by index."""
    torch.manual_seed(training.seed)
    device, dim = training.device, training.embedding_ND.shape[1]
    embedding_ND, target_N = training.embedding_ND.to(device), training.target_N.to(device)
    weight_CD = torch.nn.Parameter(torch.randn(training.classes, dim, device=device) * math.sqrt(2 / dim))
    optimizer, history = adam([weight_CD]), []

    def epoch() -> None:
        for index_B in torch.randperm(len(target_N), device=device).split(training.batch)[: training.steps]:
            embedding_BD, target_B = F.normalize(embedding_ND[index_B]), target_N[index_B]
            logits_BC = insightface_logits(F.linear(embedding_BD, F.normalize(weight_CD)), target_B)
            optimizer.zero_grad()
            F.cross_entropy(logits_BC, target_B).backward()
            optimizer.step()

    samples = min((training.steps or len(target_N)) * training.batch, len(target_N))
    with matmul_precision(training.precision):
        for _ in range(training.epochs):
            history.append({"time/samples_per_second": samples / seconds(epoch, device)})
    return samples_per_second(history)


@lru_cache
def product_dtype(precision: str, device: str) -> torch.dtype:
    """The operands of the fastest product that a precision permits: bfloat16 below "high". It is tried once."""

    def time_of(dtype: torch.dtype) -> float:
        ones = torch.ones(512, 512, dtype=dtype, device=device)
        with matmul_precision(precision):
            return seconds(lambda: torch.mm(ones, ones), device, at_least=0.1)

    return min((torch.float32, torch.bfloat16), key=time_of) if precision in ("medium", "low") else torch.float32


def product_samples_per_second(training: Training) -> float:
    """The limit by the machine's own matrix product: a step is the products of logits and weight gradient alone."""
    classes, batch, dim = training.classes, training.batch, training.embedding_ND.shape[1]
    how: Any = {"dtype": product_dtype(training.precision, training.device), "device": training.device}
    x_BD, w_CD, g_BC = (torch.rand(shape, **how) for shape in ((batch, dim), (classes, dim), (batch, classes)))
    out_BC, out_CD = torch.empty_like(g_BC), torch.empty_like(w_CD)

    def step() -> None:
        torch.mm(x_BD, w_CD.T, out=out_BC)
        torch.mm(g_BC.T, x_BD, out=out_CD)

    with matmul_precision(training.precision), torch.inference_mode():
        return batch / seconds(step, training.device, FILL_SECONDS)


def memory_samples_per_second(training: Training) -> float:
    """The limit by memory: a step reads and writes weight and both moments of Adam once, as fast as it copies them."""
    source = torch.zeros(training.classes, training.embedding_ND.shape[1], device=training.device)
    target = torch.zeros_like(source)
    return training.batch / (3 * seconds(lambda: target.copy_(source), training.device, FILL_SECONDS))


LIMITS = {"gemm": product_samples_per_second, "memory": memory_samples_per_second}
BASELINES: dict[str, Callable[[Training], float]] = {
    "lightning_pml": lambda training: train_pml(training)[0], "insightface": train_insightface, **LIMITS
}  # fmt: skip
