# SPDX-License-Identifier: MIT
"""Head, margin and cross-entropy in one autograd function: two matrix products and little else.

Axes: B batch, C classes, D embedding dimension.

For unit embeddings x_b and class rows w_c, z_bc = s x_b . w_c / |w_c| for c != y and z_by = t(x_b . w_y / |w_y|), the
loss is logsumexp_c(z_b) - z_by, plus a penalty on cos_by where the loss has one. With p = softmax(z) the gradient by
the outputs is s p_bc for the other classes and (p_by - 1) t'(cos_by), plus the penalty's slope, for the true one, so
that both gradients are one product with that matrix. Autograd would write and read the B x C matrix about ten times;
here it is written by its product, exponentiated in place and summed.

Scaled cosines lie in [-s, s], and e^s is far from overflow for every s in use: their exponentials need no maximum taken
off first, which spares two passes over the matrix. Where outputs have no such bound (rows that keep their length, a
scale above 70) the maximum of each row is taken off.

Where B x C is larger than a bound, classes are taken in chunks: the first pass keeps the running maximum and sum of
each row (online softmax, Milakov & Gimelshein 2018), the backward pass computes each chunk's products again. The rows
divided by their length are then made chunk by chunk as well, so that a step holds the weight, its gradient and no
other matrix of all classes.

Where classes are spread over ranks (`reduce`), each rank has the whole batch and its own rows. All-reduces join the
ranks: B cosines of true classes, B maxima, B sums of exponentials, and the gradient by embeddings if it is wanted. The
gradient by the own rows needs no word from the others (model-parallel ArcFace, Deng et al., CVPR 2019, 3.1).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_modules.kernels import BLOCK, PLAIN, Kernels, product
from lightning_modules.losses.base import MarginLoss

DEFAULT_LOGITS_BYTES = 1 << 30
LARGEST_EXPONENT = 80.0  # e^88.7 is the end of float32
# Powers of e^s in a denominator come close to the smallest float32: factors are moved to the middle of the range.
LIFT = 2.0**16

# A tensor of any shape and "sum" or "max": the tensor, overwritten by that over all ranks.
Reduce = Callable[[Tensor, str], Tensor]


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

    def clear(self) -> None:
        """Frees what is not lent."""
        self._free.clear()

    def __reduce__(self):
        return Buffers, ()


def fused_margin_softmax(
    embedding_BD: Tensor,
    weight_CD: Tensor,
    target_B: Tensor,
    loss: MarginLoss,
    precision: str = "highest",
    max_logits_bytes: int = DEFAULT_LOGITS_BYTES,
    buffers: Buffers | None = None,
    kernels: Kernels = PLAIN,
    reduce: Reduce | None = None,
) -> Tensor:
    """Per-sample loss of a linear head under a margin loss, differentiable by embeddings and weight.

    Args:
        embedding_BD: (B, D) float32 embeddings of unit length.
        weight_CD: (C, D) float32 class rows, of any length; divided by it where `loss.unit_rows`.
        target_B: (B,) int64 in [0, C); -1 where another rank holds the true class.
        precision: of the two large products, see `matmul_precision`. The cosine of the true class, its margin and
            everything after the product is float32 always.
        max_logits_bytes: bound on the bytes of the B x C matrix held at once.
        buffers: where large intermediate results come from and go to; None allocates them anew.
        reduce: over the ranks that hold the other classes; None where all classes are here.

    Returns:
        (B,) float32, equal to `loss(cosine_BC, target_B)` up to rounding.
    """
    buffers = Buffers() if buffers is None else buffers
    chunks = _chunks(len(weight_CD), len(target_B), max_logits_bytes)
    rows = _Rows(weight_CD, loss, buffers, chunks)
    # Its own product, in float32: the margin's slope near theta = 0 does not forgive a cosine of 8 bits.
    here = slice(None) if reduce is None else (target_B >= 0).nonzero().squeeze(1)
    own_OD = rows.of(target_B[here])
    cosine_B = own_OD.mul_(embedding_BD.detach()[here]).sum(1).div_(loss.scale)
    buffers.give(own_OD)
    if reduce is not None:
        cosine_O, cosine_B = cosine_B, cosine_B.new_zeros(len(target_B))
        cosine_B[here] = cosine_O
        reduce(cosine_B, "sum")
    return _FusedMarginSoftmax.apply(
        embedding_BD, weight_CD, target_B, rows, target_terms(loss, cosine_B), precision, chunks, kernels, reduce
    )


def target_terms(loss: MarginLoss, cosine_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a margin loss says of the true class, with derivatives by its cosine.

    Args:
        cosine_B: float32 cosines with the true class, any shape.

    Returns:
        Logit, its derivative, penalty, its derivative: each of the shape of `cosine_B`, without gradient; None twice
        where the loss has no penalty.
    """
    cosine_B = cosine_B.detach()
    slope_B, penalty_slope_B = loss.target_slope(cosine_B), None
    if slope_B is None:
        slope_B = _slope(loss.target_logit, cosine_B)
    penalty_B = loss.penalty(cosine_B)
    if penalty_B is not None:
        penalty_slope_B = _slope(loss.penalty, cosine_B)
    return loss.target_logit(cosine_B).detach(), slope_B, penalty_B, penalty_slope_B


def _slope(function: Callable[[Tensor], Tensor], cosine_B: Tensor) -> Tensor:
    with torch.enable_grad():
        cosine_B = cosine_B.detach().requires_grad_()
        (slope_B,) = torch.autograd.grad(function(cosine_B).sum(), cosine_B)
    return slope_B


class _Rows:
    """Class rows times the scale, of unit length where the loss wants it: a product with them is the logit.

    Args:
        weight_CD: (C, D) float32.
        loss: scale, and whether rows have unit length.
        buffers: where they are written.
        chunks: of classes. A single one is kept from the forward to the backward pass; of several each is made
            whenever it is asked for, in the place of the one before.
    """

    def __init__(self, weight_CD: Tensor, loss: MarginLoss, buffers: Buffers, chunks: list[slice]):
        self.weight_CD, self.scale, self.buffers = weight_CD.detach(), loss.scale, buffers
        self.length_C1: Tensor | None = None
        self.whole_CD: Tensor | None = None
        self.place_cD: Tensor | None = None
        self.most = chunks[0].stop if chunks else 0
        if loss.unit_rows:
            self.length_C1 = torch.linalg.vector_norm(self.weight_CD, dim=1, keepdim=True).clamp_min_(1e-12)
        self.as_they_are = not loss.unit_rows and loss.scale == 1
        if len(chunks) == 1:
            self.whole_CD = self._made(chunks[0])

    def of(self, target_B: Tensor) -> Tensor:
        """The (B, D) rows of some classes, in a tensor of its own."""
        from_CD = self.weight_CD if self.whole_CD is None else self.whole_CD
        place_BD = self.buffers.take((len(target_B), from_CD.shape[1]), from_CD)
        own_BD = torch.index_select(from_CD, 0, target_B, out=place_BD)
        if self.whole_CD is None:
            own_BD *= self.scale if self.length_C1 is None else self.scale / self.length_C1[target_B]
        return own_BD

    def take(self, chunk: slice) -> Tensor:
        """The rows of a chunk; of several chunks they are good until the next is asked for."""
        return self._made(chunk) if self.whole_CD is None else self.whole_CD[chunk]

    def end(self) -> None:
        """Gives back the place of all rows, or of a chunk."""
        self.buffers.give(self.place_cD)
        self.place_cD = self.whole_CD = None

    def project(self, gradient_cD: Tensor, rows_cD: Tensor, chunk: slice, kernels: Kernels) -> None:
        """From LIFT times the gradient by the rows to that by the weight, in place."""
        if self.length_C1 is None:
            gradient_cD.div_(LIFT)
            return
        size = max(1, BLOCK // gradient_cD.shape[1])
        place_bD = self.buffers.take(gradient_cD[:size].shape, gradient_cD)
        kernels.project(gradient_cD, rows_cD, self.length_C1[chunk], self.scale, LIFT, place_bD)
        self.buffers.give(place_bD)

    def _made(self, chunk: slice) -> Tensor:
        weight_cD = self.weight_CD[chunk]
        if self.as_they_are:
            return weight_cD
        if self.place_cD is None:
            self.place_cD = self.buffers.take((self.most, weight_cD.shape[1]), weight_cD)
        out = self.place_cD[: len(weight_cD)]
        if self.length_C1 is None:
            return torch.mul(weight_cD, self.scale, out=out)
        return torch.div(weight_cD, self.length_C1[chunk] / self.scale, out=out)


def _chunks(classes: int, batch: int, max_bytes: int) -> list[slice]:
    step = max(1, min(classes, max_bytes // (4 * batch)))
    return [slice(start, min(start + step, classes)) for start in range(0, classes, step)]


class _FusedMarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embedding_BD, weight_CD, target_B, rows, terms, precision, chunks, kernels, reduce):
        logit_B, slope_B, penalty_B, penalty_slope_B = terms
        scale, buffers, one = rows.scale, rows.buffers, len(chunks) == 1
        bounded = reduce is None and rows.length_C1 is not None and scale + math.log(len(weight_CD)) < LARGEST_EXPONENT
        others_B, highest_B = torch.zeros_like(logit_B), None if bounded else logit_B
        place = buffers.take((len(target_B) * rows.most,), logit_B)
        for chunk in chunks:
            rows_cD = rows.take(chunk)
            e_Bc = place[: len(target_B) * len(rows_cD)].view(len(target_B), -1)
            product(embedding_BD, rows_cD.T, precision, out=e_Bc)
            _put(e_Bc, None if one and reduce is None else chunk, target_B, -torch.inf)
            if not bounded:
                before_B, highest_B = highest_B, torch.maximum(highest_B, e_Bc.amax(1))
                others_B *= (before_B - highest_B).exp_()
            others_B += kernels.exponentials(e_Bc, highest_B)
        if reduce is not None:
            before_B, highest_B = highest_B, reduce(highest_B.clone(), "max")
            less_B = (before_B - highest_B).exp_()
            others_B = reduce(others_B * less_B, "sum")
            if one:
                e_Bc *= less_B[:, None]
        if not one:
            buffers.give(place)
            rows.end()
        log_others_B = others_B.log() if bounded else others_B.log().add_(highest_B)
        log_sum_B = torch.logaddexp(log_others_B, logit_B)
        relative_B = log_sum_B if bounded else log_sum_B - highest_B
        sum_B = relative_B.clamp(max=LARGEST_EXPONENT).exp_()  # a user's margin may raise the true class above s
        ctx.save_for_backward(
            embedding_BD, target_B, slope_B, penalty_slope_B, others_B, sum_B, highest_B, place if one else None
        )
        ctx.rows, ctx.precision, ctx.chunks, ctx.kernels, ctx.reduce = rows, precision, chunks, kernels, reduce
        loss_B = log_sum_B.sub_(logit_B)
        return loss_B if penalty_B is None else loss_B.add_(penalty_B)

    @staticmethod
    def backward(ctx, grad_B):
        embedding_BD, target_B, slope_B, penalty_slope_B, others_B, sum_B, highest_B, kept = ctx.saved_tensors
        needs_embedding, needs_weight = ctx.needs_input_grad[:2]
        rows, scale, buffers = ctx.rows, ctx.rows.scale, ctx.rows.buffers
        # Dividing B x D numbers by the sums spares B x C divisions: the matrix holds p sum_b, not p.
        weight_B = grad_B * (scale * LIFT) / sum_B
        weighted_BD = buffers.take(embedding_BD.shape, embedding_BD)
        torch.mul(embedding_BD, weight_B[:, None], out=weighted_BD)
        grad_embedding_BD = torch.zeros_like(embedding_BD) if needs_embedding else None
        grad_weight_CD = buffers.take(rows.weight_CD.shape, rows.weight_CD) if needs_weight else None
        # (p_y - 1) sum = -others: nothing cancels where p_y is close to 1.
        own_B = others_B * slope_B / -scale
        if penalty_slope_B is not None:
            own_B += penalty_slope_B * sum_B / scale
        place = buffers.take((len(target_B) * rows.most,), weight_B) if kept is None else kept
        for chunk in ctx.chunks:
            rows_cD = rows.take(chunk)
            g_Bc = place[: len(target_B) * len(rows_cD)].view(len(target_B), -1)
            if kept is None:
                product(embedding_BD, rows_cD.T, ctx.precision, out=g_Bc)
                ctx.kernels.exponentials(g_Bc, highest_B)
            _put(g_Bc, None if kept is not None and ctx.reduce is None else chunk, target_B, own_B)
            if needs_weight:
                # Written as the transposed product: on CPUs up to twice as fast as g.T @ x.
                product(weighted_BD.T, g_Bc, ctx.precision, out=grad_weight_CD[chunk].T)
                rows.project(grad_weight_CD[chunk], rows_cD, chunk, ctx.kernels)
            if needs_embedding:
                grad_embedding_BD += product(g_Bc, rows_cD, ctx.precision)
        rows.end()
        buffers.give(place, weighted_BD)
        if needs_embedding:
            if ctx.reduce is not None:
                ctx.reduce(grad_embedding_BD, "sum")
            grad_embedding_BD *= (weight_B / (scale * LIFT))[:, None]
        return grad_embedding_BD, grad_weight_CD, *[None] * 7


def _put(matrix_Bc: Tensor, chunk: slice | None, target_B: Tensor, value_B: Tensor | float) -> None:
    # Writes the places of the true classes that are in the chunk.
    if chunk is None:
        matrix_Bc.scatter_(1, target_B[:, None], value_B[:, None] if isinstance(value_B, Tensor) else value_B)
        return
    inside = ((target_B >= chunk.start) & (target_B < chunk.stop)).nonzero().squeeze(1)
    matrix_Bc[inside, target_B[inside] - chunk.start] = value_B[inside] if isinstance(value_B, Tensor) else value_B
