# SPDX-License-Identifier: MIT
"""Head, margin and cross-entropy in one autograd function: two matrix products and little else.

Axes: B batch, C classes, D embedding dimension.

For unit embeddings x_b and class rows w_c, z_bc = s x_b . w_c / |w_c| for c != y and z_by = t(x_b . w_y / |w_y|), the
loss is logsumexp_c(z_b) - z_by, plus a penalty on cos_by where the loss has one. With p = softmax(z) the gradient by
the outputs is s p_bc for the other classes and (p_by - 1) t'(cos_by), plus the penalty's slope, for the true one, so
that both gradients are one product with that matrix. Autograd would write
and read the B x C matrix about ten times; here it is written once per product and updated in place.

Where B x C is larger than a bound, classes are taken in chunks: the first pass keeps the running maximum and sum of
each row (online softmax, Milakov & Gimelshein 2018), the backward pass computes each chunk's products again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss

DEFAULT_LOGITS_BYTES = 1 << 30


class Buffers:
    """Large tensors that are used again in the next step.

    A fresh allocation of many megabytes comes from the kernel page by page and goes back to it: at C = 2,000,
    B = 1,024 that is a third of a step on a CPU. A tensor is lent to one user at a time and given back when its
    content is no longer needed; what is never given back is freed like any other tensor. On a GPU, whose allocator
    keeps memory itself, it does nothing.
    """

    def __init__(self):
        self._free: dict[tuple[int, ...], list[Tensor]] = {}

    def take(self, shape: Iterable[int], like: Tensor) -> Tensor:
        """A tensor of any `shape` with undefined content, of the dtype and device of `like`."""
        shape = tuple(shape)
        free = self._free.get(shape, [])
        while free:
            kept = free.pop()
            if kept.dtype == like.dtype and kept.device == like.device:
                return kept
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def give(self, *tensors: Tensor | None) -> None:
        """Takes tensors back; nobody else may use them from now on.

        Args:
            tensors: of any shape; None is passed over. Of one shape four are kept, and of few shapes: the last batch
                of an epoch is smaller than the others.
        """
        for tensor in tensors:
            if tensor is None or tensor.is_cuda:
                continue
            if len(self._free) > 8:
                self._free.clear()
            kept = self._free.setdefault(tuple(tensor.shape), [])
            if len(kept) < 4:
                kept.append(tensor.detach())

    def __deepcopy__(self, memo: dict) -> "Buffers":
        return Buffers()

    def __reduce__(self):
        return Buffers, ()


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Sets how float32 matrix products are computed, for a while.

    Args:
        precision: "highest" (float32), "high" (TF32 where a GPU has it) or "medium" (operands rounded to bfloat16,
            sums and results in float32), as `torch.set_float32_matmul_precision` names them.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fused_margin_softmax(
    embedding_BD: Tensor,
    weight_CD: Tensor,
    target_B: Tensor,
    loss: MarginLoss,
    precision: str = "highest",
    max_logits_bytes: int = DEFAULT_LOGITS_BYTES,
    buffers: Buffers | None = None,
) -> Tensor:
    """Per-sample loss of a linear head under a margin loss, differentiable by embeddings and weight.

    Args:
        embedding_BD: (B, D) float32 embeddings of unit length.
        weight_CD: (C, D) float32 class rows, of any length; divided by it where `loss.unit_rows`.
        target_B: (B,) int64 in [0, C).
        loss: scale and target logit.
        precision: of the two large products, see `matmul_precision`. The cosine of the true class, its margin and
            everything after the product is float32 always.
        max_logits_bytes: bound on the bytes of the B x C matrix held at once.
        buffers: where large intermediate results come from and go to; None allocates them anew.

    Returns:
        (B,) float32, equal to `loss(cosine_BC, target_B)` up to rounding.
    """
    buffers = Buffers() if buffers is None else buffers
    rows_CD, length_C1 = (weight_CD.detach(), None) if not loss.unit_rows else _unit_rows(weight_CD, buffers)
    # Its own product, in float32: the margin's slope near theta = 0 does not forgive a cosine of 8 bits.
    own_BD = torch.index_select(rows_CD, 0, target_B, out=buffers.take(embedding_BD.shape, rows_CD))
    cosine_B = own_BD.mul_(embedding_BD.detach()).sum(1)
    buffers.give(own_BD)
    logit_B, slope_B, penalty_B, penalty_slope_B = target_terms(loss, cosine_B)
    return _FusedMarginSoftmax.apply(
        embedding_BD, weight_CD, target_B, rows_CD, length_C1, logit_B, slope_B, penalty_B, penalty_slope_B,
        loss.scale, precision, max_logits_bytes, buffers,
    )  # fmt: skip


def target_terms(loss: MarginLoss, cosine_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a margin loss says of the true class, with derivatives by its cosine.

    Args:
        loss: target logit and penalty.
        cosine_B: float32 cosines with the true class, any shape.

    Returns:
        Logit, its derivative, penalty, its derivative: each of the shape of `cosine_B`, without gradient.
    """
    with torch.enable_grad():
        cosine_B = cosine_B.detach().requires_grad_()
        logit_B, penalty_B = loss.target_logit(cosine_B), loss.penalty(cosine_B)
        (slope_B,) = torch.autograd.grad(logit_B.sum(), cosine_B)
        if penalty_B is None:
            penalty_B = penalty_slope_B = torch.zeros_like(slope_B)
        else:
            (penalty_slope_B,) = torch.autograd.grad(penalty_B.sum(), cosine_B)
    return logit_B.detach(), slope_B, penalty_B.detach(), penalty_slope_B


def _unit_rows(weight_CD: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        length_C1 = torch.linalg.vector_norm(weight_CD, dim=1, keepdim=True).clamp_min(1e-12)
        return torch.div(weight_CD, length_C1, out=buffers.take(weight_CD.shape, weight_CD)), length_C1


def _chunks(classes: int, batch: int, max_bytes: int) -> list[slice]:
    step = min(classes, max(1, max_bytes // (4 * batch)))
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]


class _FusedMarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, embedding_BD, weight_CD, target_B, rows_CD, length_C1, logit_B, slope_B, penalty_B, penalty_slope_B,
        scale, precision, max_bytes, buffers,
    ):  # fmt: skip
        scaled_BD = torch.mul(embedding_BD, scale, out=buffers.take(embedding_BD.shape, embedding_BD))
        chunks = _chunks(len(weight_CD), len(target_B), max_bytes)
        with matmul_precision(precision):
            if len(chunks) == 1:
                z_BC = buffers.take((len(target_B), len(weight_CD)), scaled_BD)
                torch.mm(scaled_BD, rows_CD.T, out=z_BC)
                z_BC.scatter_(1, target_B[:, None], logit_B[:, None])
                highest_B = z_BC.amax(1)
                # p times sum_B: who divides B x D numbers by it in the backward pass spares B x C divisions.
                e_BC = z_BC.sub_(highest_B[:, None]).exp_()
                sum_B = e_BC.sum(1)
                log_sum_B = sum_B.log() + highest_B
            else:
                e_BC = sum_B = None
                log_sum_B = torch.full_like(logit_B, -torch.inf)
                for chunk in chunks:
                    z_Bc = _chunk_logits(scaled_BD, rows_CD, chunk, target_B, logit_B)
                    log_sum_B = torch.logaddexp(log_sum_B, torch.logsumexp(z_Bc, 1))
        buffers.give(scaled_BD)
        ctx.save_for_backward(
            embedding_BD, rows_CD, length_C1, target_B, logit_B, slope_B, penalty_slope_B, log_sum_B, e_BC, sum_B
        )
        ctx.scale, ctx.precision, ctx.chunks, ctx.buffers = scale, precision, chunks, buffers
        return log_sum_B - logit_B + penalty_B

    @staticmethod
    def backward(ctx, grad_B):
        embedding_BD, rows_CD, length_C1, target_B, logit_B, slope_B, penalty_slope_B, log_sum_B, e_BC, sum_B = (
            ctx.saved_tensors
        )
        needs_embedding, needs_weight = ctx.needs_input_grad[:2]
        scale, buffers = ctx.scale, ctx.buffers
        weight_B = grad_B * scale if e_BC is None else grad_B * scale / sum_B
        scaled_BD = embedding_BD * scale if e_BC is None else None
        weighted_BD = buffers.take(embedding_BD.shape, embedding_BD)
        torch.mul(embedding_BD, weight_B[:, None], out=weighted_BD)
        grad_embedding_BD = torch.zeros_like(embedding_BD) if needs_embedding else None
        grad_weight_CD = buffers.take(rows_CD.shape, rows_CD) if needs_weight else None
        target_slope_B = (((logit_B - log_sum_B).exp() - 1) * slope_B + penalty_slope_B) / scale
        with matmul_precision(ctx.precision):
            for chunk in ctx.chunks:
                if e_BC is not None:
                    g_Bc = e_BC.scatter_(1, target_B[:, None], (target_slope_B * sum_B)[:, None])
                else:
                    g_Bc = _chunk_logits(scaled_BD, rows_CD, chunk, target_B, logit_B)
                    g_Bc.sub_(log_sum_B[:, None]).exp_()
                    _put_targets(g_Bc, chunk, target_B, target_slope_B)
                if needs_weight:
                    # Written as the transposed product: on CPUs up to twice as fast as g.T @ x.
                    torch.mm(weighted_BD.T, g_Bc, out=grad_weight_CD[chunk].T)
                if needs_embedding:
                    grad_embedding_BD += g_Bc @ rows_CD[chunk]
        if needs_weight and length_C1 is not None:
            # Derivative of w / |w|: remove the part along the row, divide by its length.
            product_CD = torch.mul(grad_weight_CD, rows_CD, out=buffers.take(rows_CD.shape, rows_CD))
            grad_weight_CD.addcmul_(rows_CD, product_CD.sum(1, keepdim=True), value=-1).div_(length_C1)
            buffers.give(product_CD)
        buffers.give(weighted_BD, e_BC, rows_CD if length_C1 is not None else None)
        if needs_embedding:
            grad_embedding_BD *= weight_B[:, None]
        return grad_embedding_BD, grad_weight_CD, *[None] * 11


def _chunk_logits(scaled_BD: Tensor, rows_CD: Tensor, chunk: slice, target_B: Tensor, logit_B: Tensor) -> Tensor:
    z_Bc = scaled_BD @ rows_CD[chunk].T
    _put_targets(z_Bc, chunk, target_B, logit_B)
    return z_Bc


def _put_targets(matrix_Bc: Tensor, chunk: slice, target_B: Tensor, value_B: Tensor) -> None:
    inside = ((target_B >= chunk.start) & (target_B < chunk.stop)).nonzero().squeeze(1)
    matrix_Bc[inside, target_B[inside] - chunk.start] = value_B[inside]
