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

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_modules.losses.base import MarginLoss

DEFAULT_LOGITS_BYTES = 1 << 30


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

    Returns:
        (B,) float32, equal to `loss(cosine_BC, target_B)` up to rounding.
    """
    rows_CD, length_C1 = (weight_CD.detach(), None) if not loss.unit_rows else _unit_rows(weight_CD)
    # Its own product, in float32: the margin's slope near theta = 0 does not forgive a cosine of 8 bits.
    cosine_B = (embedding_BD.detach() * rows_CD[target_B]).sum(1)
    with torch.enable_grad():
        cosine_B.requires_grad_()
        logit_B, penalty_B = loss.target_logit(cosine_B), loss.penalty(cosine_B)
        (slope_B,) = torch.autograd.grad(logit_B.sum(), cosine_B)
        if penalty_B is None:
            penalty_B = penalty_slope_B = torch.zeros_like(slope_B)
        else:
            (penalty_slope_B,) = torch.autograd.grad(penalty_B.sum(), cosine_B)
    return _FusedMarginSoftmax.apply(
        embedding_BD, weight_CD, target_B, rows_CD, length_C1, logit_B.detach(), slope_B, penalty_B.detach(),
        penalty_slope_B, loss.scale, precision, max_logits_bytes,
    )  # fmt: skip


def _unit_rows(weight_CD: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        length_C1 = torch.linalg.vector_norm(weight_CD, dim=1, keepdim=True).clamp_min(1e-12)
        return weight_CD / length_C1, length_C1


def _chunks(classes: int, batch: int, max_bytes: int) -> list[slice]:
    step = min(classes, max(1, max_bytes // (4 * batch)))
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]


class _FusedMarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, embedding_BD, weight_CD, target_B, rows_CD, length_C1, logit_B, slope_B, penalty_B, penalty_slope_B,
        scale, precision, max_bytes,
    ):  # fmt: skip
        scaled_BD = embedding_BD * scale
        chunks = _chunks(len(weight_CD), len(target_B), max_bytes)
        with matmul_precision(precision):
            if len(chunks) == 1:
                z_BC = scaled_BD @ rows_CD.T
                z_BC.scatter_(1, target_B[:, None], logit_B[:, None])
                highest_B = z_BC.amax(1)
                p_BC = torch.softmax(z_BC, 1, out=z_BC) if not z_BC.is_cuda else torch.softmax(z_BC, 1)
                # p of the largest logit is at least 1 / C, so its logarithm is safe where that of p_y is not.
                log_sum_B = highest_B - p_BC.amax(1).log()
            else:
                p_BC = None
                log_sum_B = torch.full_like(logit_B, -torch.inf)
                for chunk in chunks:
                    z_Bc = _chunk_logits(scaled_BD, rows_CD, chunk, target_B, logit_B)
                    log_sum_B = torch.logaddexp(log_sum_B, torch.logsumexp(z_Bc, 1))
        ctx.save_for_backward(
            embedding_BD, rows_CD, length_C1, target_B, logit_B, slope_B, penalty_slope_B, log_sum_B, p_BC
        )
        ctx.scale, ctx.precision, ctx.chunks = scale, precision, chunks
        return log_sum_B - logit_B + penalty_B

    @staticmethod
    def backward(ctx, grad_B):
        embedding_BD, rows_CD, length_C1, target_B, logit_B, slope_B, penalty_slope_B, log_sum_B, p_BC = (
            ctx.saved_tensors
        )
        needs_embedding, needs_weight = ctx.needs_input_grad[:2]
        scale = ctx.scale
        scaled_BD = embedding_BD * scale
        weighted_BD = embedding_BD * (grad_B * scale)[:, None]
        grad_embedding_BD = torch.zeros_like(embedding_BD) if needs_embedding else None
        grad_weight_CD = torch.empty_like(rows_CD) if needs_weight else None
        target_slope_B = (((logit_B - log_sum_B).exp() - 1) * slope_B + penalty_slope_B) / scale
        with matmul_precision(ctx.precision):
            for chunk in ctx.chunks:
                if p_BC is not None:
                    g_Bc = p_BC.scatter_(1, target_B[:, None], target_slope_B[:, None])
                else:
                    g_Bc = _chunk_logits(scaled_BD, rows_CD, chunk, target_B, logit_B)
                    g_Bc.sub_(log_sum_B[:, None]).exp_()
                    _put_targets(g_Bc, chunk, target_B, target_slope_B)
                if needs_weight:
                    torch.mm(g_Bc.T, weighted_BD, out=grad_weight_CD[chunk])
                if needs_embedding:
                    grad_embedding_BD += g_Bc @ rows_CD[chunk]
        if needs_weight and length_C1 is not None:
            # Derivative of w / |w|: remove the part along the row, divide by its length.
            along_C1 = (grad_weight_CD * rows_CD).sum(1, keepdim=True)
            grad_weight_CD.addcmul_(rows_CD, along_C1, value=-1).div_(length_C1)
        if needs_embedding:
            grad_embedding_BD *= (grad_B * scale)[:, None]
        return grad_embedding_BD, grad_weight_CD, *[None] * 10


def _chunk_logits(scaled_BD: Tensor, rows_CD: Tensor, chunk: slice, target_B: Tensor, logit_B: Tensor) -> Tensor:
    z_Bc = scaled_BD @ rows_CD[chunk].T
    _put_targets(z_Bc, chunk, target_B, logit_B)
    return z_Bc


def _put_targets(matrix_Bc: Tensor, chunk: slice, target_B: Tensor, value_B: Tensor) -> None:
    inside = ((target_B >= chunk.start) & (target_B < chunk.stop)).nonzero().squeeze(1)
    matrix_Bc[inside, target_B[inside] - chunk.start] = value_B[inside]
