# SPDX-License-Identifier: MIT
"""One head over several processes: each holds a part of the classes, and the softmax is completed between them.

Axes: B samples of the whole batch, b of one rank's part, C classes in all, c of this rank, D embedding dimension.

Every rank sees the whole batch and computes logits z_Bc against its own rows. With l_r = logsumexp over the classes of
rank r, log sum_j exp(z_j) = max_r l_r + log sum_r exp(l_r - max_r l_r): one all-reduce of a maximum and one of a sum,
of B numbers each; the logit of the true class, with its margin, is added to the sum by the rank that owns the class.
The gradient by the own rows then needs no word from the others (model-parallel ArcFace, Deng et al., CVPR 2019, 3.1).
"""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from datamodules.cluster_datamodule import Batch
from datamodules.errors import InputError
from lightning_modules.active_classes import ActiveClasses, EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.fused import DEFAULT_LOGITS_BYTES, target_terms
from lightning_modules.kernels import BLOCK, PLAIN, Kernels, product
from lightning_modules.losses.base import ClassificationLoss, MarginLoss


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) where no process group is open."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def shard(classes: int, rank: int, world_size: int) -> slice:
    """The classes of a rank: parts in order, of sizes that differ by one at most.

    Args:
        classes: C.
        rank: which process.
        world_size: of how many.

    >>> [shard(10, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(classes * rank // world_size, classes * (rank + 1) // world_size)


def gather_rows(value_cD: Tensor, classes: int) -> Tensor:
    """Rows of all classes from the parts that the ranks hold; every rank must call it.

    Args:
        value_cD: (c, D) this rank's part.
        classes: C.

    Returns:
        (C, D).
    """
    _, world = ranks()
    if world == 1:
        return value_cD
    sizes = [len(range(classes)[shard(classes, rank, world)]) for rank in range(world)]
    parts = [value_cD.new_zeros(max(sizes), *value_cD.shape[1:]) for _ in range(world)]
    padded = value_cD.new_zeros(max(sizes), *value_cD.shape[1:])
    padded[: len(value_cD)] = value_cD
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_batch(value_b: Tensor, together: int) -> Tensor:
    """The whole batch, in the order in which one process would have it.

    Args:
        value_b: (b, ...) this rank's samples: number r, r + k, r + 2k, ... of the batch for rank r of k.
        together: B; what a rank has beyond its share is left out.

    Returns:
        (B, ...).
    """
    _, world = ranks()
    if world == 1:
        return value_b
    share = -(-together // world)
    padded = value_b.new_zeros(share, *value_b.shape[1:])
    padded[: len(value_b)] = value_b[:share]
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:together]


def sharded_margin_softmax(
    embedding_BD: Tensor,
    weight_cD: Tensor,
    place_B: Tensor,
    loss: MarginLoss,
    precision: str = "highest",
    max_logits_bytes: int = DEFAULT_LOGITS_BYTES,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """Per-sample loss of a linear head whose rows are spread over the ranks, differentiable like the whole head.

    Args:
        embedding_BD: (B, D) float32 embeddings of unit length, the same on every rank.
        weight_cD: (c, D) float32 class rows of this rank, of any length; divided by it where `loss.unit_rows`.
        place_B: (B,) int64 row of the true class in `weight_cD`, -1 where another rank holds it.
        loss: scale and target logit.
        precision: of the large products, see `lightning_modules.kernels.matmul_precision`.
        max_logits_bytes: bound on the bytes of the B x c matrix held at once.
        kernels: the passes over the large matrices.

    Returns:
        (B,) float32, the same on every rank. Its gradient by embeddings is that of all classes, on every rank.
    """
    own_O = (place_B >= 0).nonzero().squeeze(1)
    with torch.no_grad():
        length_c1 = weight_cD.norm(dim=1, keepdim=True).clamp_min(1e-12) if loss.unit_rows else None
        rows_cD = weight_cD.detach() if length_c1 is None else weight_cD / length_c1
        cosine_O = (embedding_BD[own_O] * rows_cD[place_B[own_O]]).sum(1)
    logit_O, slope_O, penalty_O, penalty_slope_O = target_terms(loss, cosine_O)
    target = own_O, place_B[own_O], logit_O, slope_O, penalty_O, penalty_slope_O
    return _ShardedMarginSoftmax.apply(
        embedding_BD, weight_cD, rows_cD, length_c1, target, loss.scale, precision, max_logits_bytes, kernels
    )


class _ShardedMarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embedding_BD, weight_cD, rows_cD, length_c1, target, scale, precision, max_bytes, kernels):
        own_O, place_O, logit_O, _, penalty_O, _ = target
        batch, classes = len(embedding_BD), len(rows_cD)
        step = max(1, min(classes, max_bytes // (4 * batch)))
        ctx.chunks = [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
        ctx.scale, ctx.precision, ctx.target, ctx.kernels = scale, precision, target, kernels
        scaled_BD = embedding_BD * scale
        log_sum_B = embedding_BD.new_full((batch,), -torch.inf)
        for chunk in ctx.chunks:
            z_Bc = _logits(scaled_BD, rows_cD, chunk, own_O, place_O, logit_O, precision)
            log_sum_B = torch.logaddexp(log_sum_B, torch.logsumexp(z_Bc, 1))
        highest_B = _reduce(log_sum_B.clone(), "max")
        sums_3B = embedding_BD.new_zeros(3, batch)
        sums_3B[0] = (log_sum_B - highest_B).exp()
        sums_3B[1, own_O] = logit_O
        if penalty_O is not None:
            sums_3B[2, own_O] = penalty_O
        sum_B, logit_B, penalty_B = _reduce(sums_3B, "sum")
        log_sum_B = highest_B + sum_B.log()
        p_Bc = z_Bc if len(ctx.chunks) == 1 else None
        if p_Bc is not None:
            kernels.exponentials(p_Bc, log_sum_B)
        ctx.save_for_backward(embedding_BD, rows_cD, length_c1, log_sum_B, p_Bc)
        return log_sum_B - logit_B + penalty_B

    @staticmethod
    def backward(ctx, grad_B):
        embedding_BD, rows_cD, length_c1, log_sum_B, p_Bc = ctx.saved_tensors
        own_O, place_O, logit_O, slope_O, _, penalty_slope_O = ctx.target
        needs_embedding, needs_weight = ctx.needs_input_grad[:2]
        factor_B1 = (grad_B * ctx.scale)[:, None]
        scaled_BD, weighted_BD = embedding_BD * ctx.scale, embedding_BD * factor_B1
        slope_O = ((logit_O - log_sum_B[own_O]).exp() - 1) * slope_O
        slope_O = (slope_O if penalty_slope_O is None else slope_O + penalty_slope_O) / ctx.scale
        grad_embedding_BD = torch.zeros_like(embedding_BD) if needs_embedding else None
        grad_weight_cD = torch.empty_like(rows_cD) if needs_weight else None
        for chunk in ctx.chunks:
            if p_Bc is None:
                g_Bc = _logits(scaled_BD, rows_cD, chunk, own_O, place_O, logit_O, ctx.precision)
                ctx.kernels.exponentials(g_Bc, log_sum_B)
            else:
                g_Bc = p_Bc
            _put(g_Bc, chunk, own_O, place_O, slope_O)
            if needs_weight:
                product(weighted_BD.T, g_Bc, ctx.precision, out=grad_weight_cD[chunk].T)
            if needs_embedding:
                grad_embedding_BD += product(g_Bc, rows_cD[chunk], ctx.precision)
        if needs_weight and length_c1 is not None:
            place_bD = torch.empty_like(grad_weight_cD[: max(1, BLOCK // grad_weight_cD.shape[1])])
            ctx.kernels.project(grad_weight_cD, rows_cD, length_c1, 1.0, 1.0, place_bD)
        if needs_embedding:
            grad_embedding_BD = _reduce(grad_embedding_BD, "sum") * factor_B1
        return grad_embedding_BD, grad_weight_cD, *[None] * 7


def _logits(scaled_BD, rows_cD, chunk, own_O, place_O, logit_O, precision) -> Tensor:
    z_Bc = product(scaled_BD, rows_cD[chunk].T, precision)
    _put(z_Bc, chunk, own_O, place_O, logit_O)
    return z_Bc


def _put(matrix_Bc: Tensor, chunk: slice, own_O: Tensor, place_O: Tensor, value_O: Tensor) -> None:
    inside = ((place_O >= chunk.start) & (place_O < chunk.stop)).nonzero().squeeze(1)
    matrix_Bc[own_O[inside], place_O[inside] - chunk.start] = value_O[inside]


def _reduce(value: Tensor, operation: str) -> Tensor:
    if ranks()[1] > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
    return value


class ShardedHead(ActiveHead):
    """A head of which this rank holds its share of the classes, with their gradients and optimiser state.

    Args:
        rows_CD: rows of all classes to start from, the same on every rank; this rank keeps its own.
        active: chooses the classes of a step, for all ranks alike.
        seed: of the choices.
        rank, world_size: which process of how many this is; the process group itself is needed only by the loss.
        **more: further arguments of `Head`.

    Raises:
        InputError: several rows per class, or a choice of classes that looks at the rows.
    """

    def __init__(
        self, rows_CD: Tensor, active: ActiveClasses | None = None, seed: int = 0, rank: int = 0, world_size: int = 1,
        **more: Any,
    ):  # fmt: skip
        self._classes, self.own = len(rows_CD), shard(len(rows_CD), rank, world_size)
        active = active or EveryClass()
        if more.get("rows_per_class", 1) > 1 or active.needs_rows:
            raise InputError(
                f"{more.get('rows_per_class', 1)} rows per class, {type(active).__name__}",
                "one row per class and a choice that does not look at the rows, where classes are sharded",
                "choose trainer.strategy=ddp, or another loss or active_classes",
            )
        super().__init__(rows_CD[self.own], active, seed, **more)

    @property
    def n_classes(self) -> int:
        """C, of all ranks."""
        return self._classes

    def whole_rows(self) -> Tensor:
        """Class rows of all ranks as `rows` gives them: (C, D); every rank must call it."""
        return gather_rows(self.rows().detach(), self.n_classes)

    def loss(self, embedding_BD: Tensor, target_B: Tensor, loss: ClassificationLoss) -> Tensor:
        """Loss of each sample of the whole batch, which every rank must pass; see `Head.loss`."""
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
        """Loss of each sample among all classes.

        Args:
            embedding_BD: the whole batch, of unit length.
            target_B: true classes, over all ranks.
            loss: per-sample loss.

        Returns:
            (B,) losses.
        """
        return self._loss(embedding_BD, self.weight_CD, self._place(target_B), loss)

    def _place(self, target_B: Tensor) -> Tensor:
        return torch.where((target_B >= self.own.start) & (target_B < self.own.stop), target_B - self.own.start, -1)

    def _loss(self, embedding_BD: Tensor, weight_cD: Tensor, place_B: Tensor, loss: ClassificationLoss) -> Tensor:
        if not isinstance(loss, MarginLoss) or loss.needs_lengths:
            raise InputError(
                f"{type(loss).__name__} with classes sharded over ranks", "a loss whose true logit alone is special",
                "choose trainer.strategy=ddp, or another loss such as arcface",
            )  # fmt: skip
        options = self.precision, self.max_logits_bytes, self.kernels
        return sharded_margin_softmax(embedding_BD, weight_cD, place_B, loss, *options)

    def best(self, embedding_BD: Tensor) -> Tensor:
        """The class of the highest output over all ranks, the first of equals: (B,) int64.

        Args:
            embedding_BD: the whole batch, of unit length.
        """
        output_Bc = self(embedding_BD)
        if self.weight_CD.shape[0]:
            highest_B, place_B = output_Bc.max(1)
        else:
            highest_B = embedding_BD.new_full((len(embedding_BD),), -torch.inf)
            place_B = torch.zeros_like(highest_B, dtype=torch.long)
        overall_B = _reduce(highest_B.clone(), "max")
        # The lowest number among the ranks that hold the highest output, as a maximum of negative numbers.
        candidate_B = torch.where(highest_B == overall_B, -(place_B + self.own.start), -self.n_classes)
        return -_reduce(candidate_B, "max")


class ShardedSubNetwork(ActiveSubNetwork):
    """A sub-network whose head is a `ShardedHead`: every rank computes the whole batch against its own classes."""

    head: ShardedHead

    def batch_loss(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of the whole batch, of which this rank brings its part; see `SubNetwork.batch_loss`."""
        embedding_BD, target_B = self._together(batch, self.trainer.train_dataloader, batch_index)
        loss_B = self.head.loss(embedding_BD, target_B, self.loss)
        self._train_sum.add(len(target_B), loss_B.detach().sum())
        return loss_B.mean()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Adds up loss and hits of the whole batch."""
        embedding_BD, target_B = self._together(batch, self.trainer.val_dataloaders, batch_index)
        loss_B = self.head.full_loss(embedding_BD, target_B, self.loss)
        self._val_sum.add(len(target_B), loss_B.sum(), (self.head.best(embedding_BD) == target_B).sum())

    @staticmethod
    def _together(batch: Batch, loader: Any, batch_index: int) -> tuple[Tensor, Tensor]:
        together = loader.together(batch_index)
        return gather_batch(batch.unit_BD, together), gather_batch(batch.target_B, together)

    def whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights and optimiser state as one process would have them; every rank must call it.

        They come one by one to the CPU: a device that cannot hold all rows need not hold all moments either.

        Args:
            tensors: this rank's, each of any shape.
        """
        own = self.head.weight_CD.shape
        return {
            name: gather_rows(value, self.head.n_classes).cpu() if value.shape == own else value
            for name, value in tensors.items()
        }

    def part(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of what `whole` gave, on this or another number of ranks.

        Args:
            tensors: of all classes.
        """
        whole = (self.head.n_classes, self.head.weight_CD.shape[1])
        return {name: value[self.head.own] if value.shape == whole else value for name, value in tensors.items()}


class ModelParallel(DDPStrategy):
    """Lightning's process group without its gradient averaging: every rank's rows are its own."""

    def configure_ddp(self) -> None:
        """Leaves the module as it is; nothing is to be averaged."""
