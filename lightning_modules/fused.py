# SPDX-License-Identifier: MIT
"""Head, margin and cross-entropy in one autograd function: two matrix products and little else.

Axes: B batch, C classes, c classes of a chunk, D embedding dimension.

For unit embeddings x_b and class rows w_c, z_bc = s x_b . w_c / |w_c| for c != y and z_by = t(x_b . w_y / |w_y|). The
loss is logsumexp_c(z_b) - z_by, plus the loss's penalty on cos_by, if it has one. With p = softmax(z) the gradient by
the outputs is s p_bc for the other classes and (p_by - 1) t'(cos_by), plus the penalty's slope, for the true one. Both
gradients are one product with that matrix. Autograd would write and read the B x C matrix about ten times; here it is
written by its product, exponentiated in place and summed.

Scaled cosines are in [-s, s], and e^s is far from overflow for every s in use: the maximum of a row need not be
subtracted first, which saves two passes over the matrix. It is subtracted if the outputs have no such bound: rows that
keep their length, long embeddings, or a scale above 70.

If B x C is larger than a bound, classes are taken in chunks. The first pass keeps the running maximum and sum of each
row (online softmax, Milakov & Gimelshein 2018); the backward pass computes the products of each chunk again. The unit
rows are made chunk by chunk as well, so that a step holds the weight, its gradient and no other matrix of all classes.

If the classes are spread over ranks (`reduce`), each rank has the whole batch and its own rows. The ranks all-reduce B
cosines of true classes, B maxima, B sums of exponentials, and the gradient by embeddings if it is wanted. The gradient
by a rank's rows needs no communication (model-parallel ArcFace, Deng et al., CVPR 2019, 3.1).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_modules.kernels import BLOCK, product
from lightning_modules.losses.base import MarginLoss

DEFAULT_LOGITS_BYTES = 1 << 30
LARGEST_EXPONENT = 80.0  # e^88.7 is the end of float32
UNDERFLOW_GUARD = 2.0**16  # factor of the backward pass's matrices: 1 / e^80 is close to the smallest float32

# Overwrites a tensor by its "sum" or "max" over all ranks, and returns it.
Reduce = Callable[[Tensor, str], Tensor]


class Buffers:
    """Large tensors that are used again in the next step.

    A CPU gets a fresh allocation of many megabytes from the kernel page by page: 17 % of the time of a step at
    C = 2,000, B = 1,024. On a GPU, whose allocator keeps memory itself, this class does nothing.
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
        """Takes tensors of any shape back; nobody else may use them from now on."""
        for tensor in tensors:
            if tensor is None or tensor.is_cuda:
                continue
            if len(self._free) > 8:  # the last batch of an epoch has shapes of its own
                self._free.clear()
            kept = self._free.setdefault(tuple(tensor.shape), [])
            if len(kept) < 4:
                kept.append(tensor.detach())

    def clear(self) -> None:
        self._free.clear()

    def __reduce__(self):
        return Buffers, ()


def fused_margin_softmax(
    embedding_BD: Tensor, weight_CD: Tensor, target_B: Tensor, loss: MarginLoss, precision: str = "highest",
    max_logits_bytes: int = DEFAULT_LOGITS_BYTES, buffers: Buffers | None = None, reduce: Reduce | None = None,
) -> Tensor:  # fmt: skip
    """Per-sample loss of a linear head under a margin loss, differentiable by embeddings and weight.

    Args:
        embedding_BD: float32, of unit length.
        weight_CD: float32 class rows of any length; divided by it if `loss.unit_rows`.
        target_B: int64 in [0, C); -1 if another rank holds the true class.
        precision: of the large products, see `product`. The cosine of the true class, its margin and
            everything after the product is always float32.
        max_logits_bytes: bound on the bytes of the B x C matrix held at once.
        buffers: keeps large intermediate results for the next call; None allocates them anew.
        reduce: over the ranks that hold the other classes; None if all classes are here.

    Returns:
        (B,) float32, equal to `loss(cosine_BC, target_B)` up to rounding.
    """
    buffers = Buffers() if buffers is None else buffers
    classes = len(weight_CD)
    step = max(1, min(classes, max_logits_bytes // (4 * len(target_B))))
    chunks = [slice(start, min(start + step, classes)) for start in range(0, classes, step)]
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
    terms = target_terms(loss, cosine_B)
    return _FusedMarginSoftmax.apply(embedding_BD, weight_CD, target_B, rows, terms, precision, chunks, reduce)


def target_terms(loss: MarginLoss, cosine_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Logit of the true class and penalty, with derivatives by its cosine, all without gradient.

    Returns:
        (B,) logit, derivative, penalty, derivative; the last two are None if the loss has no penalty.
    """
    cosine_B = cosine_B.detach()
    slope_B, penalty_B = loss.target_slope(cosine_B), loss.penalty(cosine_B)
    if slope_B is None:
        slope_B = _slope(loss.target_logit, cosine_B)
    penalty_slope_B = None if penalty_B is None else _slope(loss.penalty, cosine_B)
    return loss.target_logit(cosine_B).detach(), slope_B, penalty_B, penalty_slope_B


def _slope(function: Callable[[Tensor], Tensor], cosine_B: Tensor) -> Tensor:
    with torch.enable_grad():
        cosine_B = cosine_B.detach().requires_grad_()
        (slope_B,) = torch.autograd.grad(function(cosine_B).sum(), cosine_B)
    return slope_B


class _Rows:
    """Class rows times the scale, of unit length if the loss wants it: a product with them is the logit.

    A single chunk of classes is kept from the forward to the backward pass. Of several, each is made whenever it is
    asked for, in the memory of the one before.
    """

    def __init__(self, weight_CD: Tensor, loss: MarginLoss, buffers: Buffers, chunks: list[slice]):
        self.weight_CD, self.scale, self.buffers = weight_CD.detach(), loss.scale, buffers
        self.length_C1: Tensor | None = None
        self.whole_CD: Tensor | None = None
        self.chunk_cD: Tensor | None = None
        self.largest_chunk = chunks[0].stop if chunks else 0
        if loss.unit_rows:
            self.length_C1 = torch.linalg.vector_norm(self.weight_CD, dim=1, keepdim=True).clamp_min_(1e-12)
        if len(chunks) == 1:
            self.whole_CD = self._made(chunks[0])

    def bounded(self, embedding_BD: Tensor) -> bool:
        """Whether sums of e^logit, and their inverses, are float32 without subtracting a maximum first."""
        classes = len(self.weight_CD)
        # A single class has no others, whose sum would be 0.
        if self.length_C1 is None or classes < 2 or self.scale + math.log(classes) >= LARGEST_EXPONENT:
            return False
        longest = float(torch.linalg.vector_norm(embedding_BD, dim=1).max()) if len(embedding_BD) else 0.0
        return self.scale * longest + max(math.log(classes), 8.0) < LARGEST_EXPONENT

    def of(self, target_B: Tensor) -> Tensor:
        """The (B, D) rows of some classes, in a tensor of its own."""
        from_CD = self.weight_CD if self.whole_CD is None else self.whole_CD
        own_BD = self.buffers.take((len(target_B), from_CD.shape[1]), from_CD)
        torch.index_select(from_CD, 0, target_B, out=own_BD)
        if self.whole_CD is None:
            own_BD *= self.scale if self.length_C1 is None else self.scale / self.length_C1[target_B]
        return own_BD

    def take(self, chunk: slice) -> Tensor:
        """The (c, D) rows of a chunk; of several chunks they are valid until the next is asked for."""
        return self._made(chunk) if self.whole_CD is None else self.whole_CD[chunk]

    def end(self) -> None:
        """Gives back the memory of the rows."""
        self.buffers.give(self.chunk_cD)
        self.chunk_cD = self.whole_CD = None

    def project(self, gradient_cD: Tensor, rows_cD: Tensor, chunk: slice) -> None:
        """Turns UNDERFLOW_GUARD times the gradient by the rows into that by the weight, in place.

        d(w / |w|) has no part along the row: (g - (g . r) r) / |w| with the unit row r.
        """
        if self.length_C1 is None:
            gradient_cD.div_(UNDERFLOW_GUARD)
            return
        size, length_c1 = max(1, BLOCK // gradient_cD.shape[1]), self.length_C1[chunk]
        product_bD = self.buffers.take(gradient_cD[:size].shape, gradient_cD)
        for gradient_bD, rows_bD, length_b1 in zip(*(x.split(size) for x in (gradient_cD, rows_cD, length_c1))):
            along_b1 = torch.mul(gradient_bD, rows_bD, out=product_bD[: len(rows_bD)]).sum(1, keepdim=True)
            gradient_bD.addcmul_(rows_bD, along_b1, value=-1 / self.scale**2).div_(length_b1 * UNDERFLOW_GUARD)
        self.buffers.give(product_bD)

    def _made(self, chunk: slice) -> Tensor:
        weight_cD = self.weight_CD[chunk]
        if self.length_C1 is None and self.scale == 1:
            return weight_cD
        if self.chunk_cD is None:
            self.chunk_cD = self.buffers.take((self.largest_chunk, weight_cD.shape[1]), weight_cD)
        out = self.chunk_cD[: len(weight_cD)]
        if self.length_C1 is None:
            return torch.mul(weight_cD, self.scale, out=out)
        return torch.div(weight_cD, self.length_C1[chunk] / self.scale, out=out)


class _FusedMarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embedding_BD, weight_CD, target_B, rows, terms, precision, chunks, reduce):
        logit_B, slope_B, penalty_B, penalty_slope_B = terms
        buffers, one = rows.buffers, len(chunks) == 1
        bounded = reduce is None and rows.bounded(embedding_BD)
        others_B, highest_B = torch.zeros_like(logit_B), None if bounded else logit_B
        matrix = buffers.take((len(target_B) * rows.largest_chunk,), logit_B)
        for chunk in chunks:
            rows_cD = rows.take(chunk)
            e_Bc = matrix[: len(target_B) * len(rows_cD)].view(len(target_B), -1)
            product(embedding_BD, rows_cD.T, precision, out=e_Bc)
            _put(e_Bc, None if one and reduce is None else chunk, target_B, -torch.inf)
            if not bounded:
                before_B, highest_B = highest_B, torch.maximum(highest_B, e_Bc.amax(1))
                others_B *= (before_B - highest_B).exp_()
            others_B += _exponentials(e_Bc, highest_B)
        if reduce is not None:
            before_B, highest_B = highest_B, reduce(highest_B.clone(), "max")
            less_B = (before_B - highest_B).exp_()
            others_B = reduce(others_B * less_B, "sum")
            if one:
                e_Bc *= less_B[:, None]
        if not one:
            buffers.give(matrix)
            rows.end()
        log_others_B = others_B.log() if bounded else others_B.log().add_(highest_B)
        log_sum_B = torch.logaddexp(log_others_B, logit_B)
        relative_B = log_sum_B if bounded else log_sum_B - highest_B
        sum_B = relative_B.clamp(max=LARGEST_EXPONENT).exp_()  # a user's margin may raise the true class above s
        kept = matrix if one else None
        ctx.save_for_backward(embedding_BD, target_B, slope_B, penalty_slope_B, others_B, sum_B, highest_B, kept)
        ctx.rows, ctx.precision, ctx.chunks, ctx.reduce = rows, precision, chunks, reduce
        loss_B = log_sum_B.sub_(logit_B)
        return loss_B if penalty_B is None else loss_B.add_(penalty_B)

    @staticmethod
    def backward(ctx, grad_B):
        embedding_BD, target_B, slope_B, penalty_slope_B, others_B, sum_B, highest_B, kept = ctx.saved_tensors
        needs_embedding, needs_weight = ctx.needs_input_grad[:2]
        rows, scale, buffers = ctx.rows, ctx.rows.scale, ctx.rows.buffers
        # Dividing B x D numbers by the sums saves B x C divisions: the matrix holds p sum_b, not p.
        weight_B = grad_B * (scale * UNDERFLOW_GUARD) / sum_B
        weighted_BD = buffers.take(embedding_BD.shape, embedding_BD)
        torch.mul(embedding_BD, weight_B[:, None], out=weighted_BD)
        grad_embedding_BD = torch.zeros_like(embedding_BD) if needs_embedding else None
        grad_weight_CD = buffers.take(rows.weight_CD.shape, rows.weight_CD) if needs_weight else None
        # (p_y - 1) sum = -others: nothing cancels if p_y is close to 1.
        own_B = others_B * slope_B / -scale
        if penalty_slope_B is not None:
            own_B += penalty_slope_B * sum_B / scale
        matrix = buffers.take((len(target_B) * rows.largest_chunk,), weight_B) if kept is None else kept
        for chunk in ctx.chunks:
            rows_cD = rows.take(chunk)
            g_Bc = matrix[: len(target_B) * len(rows_cD)].view(len(target_B), -1)
            if kept is None:
                product(embedding_BD, rows_cD.T, ctx.precision, out=g_Bc)
                _exponentials(g_Bc, highest_B)
            _put(g_Bc, None if kept is not None and ctx.reduce is None else chunk, target_B, own_B)
            if needs_weight:
                # Written as the transposed product: on CPUs up to twice as fast as g.T @ x.
                product(weighted_BD.T, g_Bc, ctx.precision, out=grad_weight_CD[chunk].T, gradient=True)
                rows.project(grad_weight_CD[chunk], rows_cD, chunk)
            if needs_embedding:
                grad_embedding_BD += product(g_Bc, rows_cD, ctx.precision, gradient=True)
        rows.end()
        buffers.give(matrix, weighted_BD)
        if needs_embedding:
            if ctx.reduce is not None:
                ctx.reduce(grad_embedding_BD, "sum")
            grad_embedding_BD *= (weight_B / (scale * UNDERFLOW_GUARD))[:, None]
        return grad_embedding_BD, grad_weight_CD, *[None] * 6


def _exponentials(matrix_Bc: Tensor, highest_B: Tensor | None) -> Tensor:
    # Replaces the matrix by e^(matrix - highest) and gives the sums of its rows.
    if highest_B is not None:
        matrix_Bc.sub_(highest_B[:, None])
    return matrix_Bc.exp_().sum(1)


def _put(matrix_Bc: Tensor, chunk: slice | None, target_B: Tensor, value_B: Tensor | float) -> None:
    # Writes values for the true classes that are in the chunk; None is all classes.
    if chunk is None:
        matrix_Bc.scatter_(1, target_B[:, None], value_B[:, None] if isinstance(value_B, Tensor) else value_B)
        return
    inside = ((target_B >= chunk.start) & (target_B < chunk.stop)).nonzero().squeeze(1)
    matrix_Bc[inside, target_B[inside] - chunk.start] = value_B[inside] if isinstance(value_B, Tensor) else value_B
