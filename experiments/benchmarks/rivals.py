# SPDX-License-Identifier: MIT
"""Other ways to train the same head on the same data, and the machine's own limits.

Axes: N samples, B batch, C classes, D embedding dimension.
"""

import itertools
import math
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from callbacks.epoch_clock import EpochClock
from callbacks.history import History
from datamodules.cluster_datamodule import IndexBatches
from experiments.benchmarks.our_training import samples_per_second
from experiments.benchmarks.pairing import seconds
from lightning_modules.kernels import matmul_precision

SCALE, MARGIN, BETAS = 64.0, 0.5, (0.9, 0.99)
PRODUCT_DTYPE = {"highest": torch.float32, "high": torch.float32, "medium": torch.bfloat16}


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
        """Mean loss of a batch."""
        return self.loss(*batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the class rows."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, betas=BETAS)

    def named_rightly(self, embedding_ND: Tensor, target_N: Tensor) -> float:
        """Share of samples, in percent, whose row has the highest cosine."""
        rows_DC = F.normalize(self.loss.W.detach(), dim=0)
        blocks = zip(embedding_ND.split(4096), target_N.split(4096), strict=True)
        hits = [((embedding_BD @ rows_DC).argmax(1) == target_B).sum() for embedding_BD, target_B in blocks]
        return 100 * float(sum(hits)) / len(target_N)


def train_pml(
    embedding_ND: Tensor, target_N: Tensor, classes: int, batch: int, epochs: int, precision: str, steps: int | None,
    accelerator: str, seed: int = 0, begin: tuple[Tensor, IndexBatches] | None = None,
) -> tuple[float, PmlHead]:  # fmt: skip
    """Lightning, TensorDataset, DataLoader and pytorch-metric-learning, as a user without this project would write it.

    Args:
        embedding_ND: (N, D) float32.
        target_N: (N,) int64 in [0, C).
        steps: of an epoch; None trains with all samples.
        begin: (C, D) first rows and batches of ours, taken instead: where two ways are compared by what they learn,
            chance must not differ.

    Returns:
        Samples per second, and the trained module on the CPU.
    """
    torch.manual_seed(seed)
    order = {"shuffle": True} if begin is None else {"sampler": _OurOrder(begin[1])}
    loader = DataLoader(TensorDataset(embedding_ND, target_N), batch_size=batch, **order)
    head, history = PmlHead(classes, embedding_ND.shape[1]), History()
    if begin is not None:
        head.loss.W.data.copy_(begin[0].T)
    with matmul_precision(precision):
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator=accelerator, devices=1, logger=history, callbacks=[EpochClock()],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            limit_train_batches=steps,
        )  # fmt: skip
        trainer.fit(head, loader)
    return samples_per_second(history.records), head.cpu()


class _OurOrder(Sampler):
    """The samples of each epoch in the order in which ours come."""

    def __init__(self, batches: IndexBatches):
        self.batches, self.passes = batches, itertools.count()
        batches.epoch = lambda: next(self.passes)

    def __len__(self) -> int:
        return len(self.batches.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.batches.order().tolist())


def insightface_logits(cosine_BC: Tensor, target_B: Tensor, scale: float = SCALE, margin: float = MARGIN) -> Tensor:
    """ArcFace as insightface's arcface_torch states it: angles of all logits, the margin added by index, no gradient.

    Args:
        cosine_BC: (B, C) cosines; changed in place.
        target_B: (B,) int64 in [0, C).
        scale: s, without dimension.
        margin: m in radians.

    Returns:
        (B, C) logits whose slope by each cosine is s, that of the true class included.
    """
    cosine_BC = cosine_BC.clamp(-1, 1)
    with torch.no_grad():
        cosine_BC.arccos_()
        cosine_BC[torch.arange(len(target_B), device=target_B.device), target_B] += margin
        cosine_BC.cos_()
    return cosine_BC * scale


def train_insightface(
    embedding_ND: Tensor, target_N: Tensor, classes: int, batch: int, epochs: int, precision: str, steps: int | None,
    device: str, seed: int = 0,
) -> float:  # fmt: skip
    """A plain PyTorch loop with insightface's formulation and cross-entropy; batches are gathered by index.

    Args:
        embedding_ND, target_N, classes, batch, epochs, precision, steps: see `train_pml`.
        device: data, weights and batch order live there.

    Returns:
        Samples per second, the median over epochs without the first.
    """
    torch.manual_seed(seed)
    dim = embedding_ND.shape[1]
    embedding_ND, target_N = embedding_ND.to(device), target_N.to(device)
    weight_CD = torch.nn.Parameter(torch.randn(classes, dim, device=device) * math.sqrt(2 / dim))
    adam, history = torch.optim.Adam([weight_CD], lr=1e-3, betas=BETAS), []

    def epoch() -> None:
        for index_B in torch.randperm(len(target_N), device=device).split(batch)[:steps]:
            embedding_BD, target_B = F.normalize(embedding_ND[index_B]), target_N[index_B]
            logits_BC = insightface_logits(F.linear(embedding_BD, F.normalize(weight_CD)), target_B)
            adam.zero_grad()
            F.cross_entropy(logits_BC, target_B).backward()
            adam.step()

    samples = min((steps or len(target_N)) * batch, len(target_N))
    with matmul_precision(precision):
        for _ in range(epochs):
            history.append({"time/samples_per_second": samples / seconds(epoch, device)})
    return samples_per_second(history)


def gemm_samples_per_second(classes: int, batch: int, dim: int, precision: str, device: str, fill: float) -> float:
    """How many samples the machine's own matrix product would train per second: forward and weight gradient, no more.

    Args:
        precision: "medium" multiplies bfloat16 operands as they lie in memory, the others float32.
        fill: seconds to measure.
    """
    dtype = PRODUCT_DTYPE[precision]
    x_BD = torch.randn(batch, dim, device=device).to(dtype)
    w_CD = torch.randn(classes, dim, device=device).to(dtype)
    g_BC = torch.randn(batch, classes, device=device).to(dtype)
    out_BC, out_CD = torch.empty_like(g_BC), torch.empty_like(w_CD)

    def step() -> None:
        torch.mm(x_BD, w_CD.T, out=out_BC)
        torch.mm(g_BC.T, x_BD, out=out_CD)

    with matmul_precision(precision), torch.inference_mode():
        step()
        return batch / seconds(step, device, fill)


def memory_samples_per_second(classes: int, batch: int, dim: int, device: str, fill: float) -> float:
    """How many samples memory alone would allow: each step reads and writes weight and both moments of Adam once.

    The bandwidth is that of a copy of a float32 matrix as large as the weight.

    Args:
        classes, batch, dim, device, fill: see `gemm_samples_per_second`.
    """
    source, target = torch.zeros(classes, dim, device=device), torch.zeros(classes, dim, device=device)
    target.copy_(source)
    return batch / (3 * seconds(lambda: target.copy_(source), device, fill))
