# SPDX-License-Identifier: MIT
"""What the heads are made of: products in a stated precision, and the passes over large matrices between them.

Axes: B batch, C classes, c classes of a chunk, D embedding dimension.

The passes exist twice, with the same results: PLAIN in PyTorch's own operations, and `compiled` by torch.compile
(Inductor: Triton on a GPU, C++ on a CPU), which reads and writes each matrix once instead of two or three times.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

BLOCK = 1 << 24  # numbers of a gradient that are projected at once


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


def product(left: Tensor, right: Tensor, precision: str, out: Tensor | None = None) -> Tensor:
    """A matrix product.

    A CPU rounds the operands of float32 products by itself where "medium" allows it. A GPU then multiplies in TF32,
    half as fast as in bfloat16: there the operands are rounded first.

    Args:
        left: (n, k) float32.
        right: (k, m) float32.
        precision: see `matmul_precision`; set for this product alone.
        out: (n, m) float32, of any strides; None allocates it.

    Returns:
        (n, m) float32.
    """
    if precision == "medium" and has_wide_products(left.device):
        return wide_product(left.bfloat16(), right.bfloat16(), out)
    with matmul_precision(precision):
        return torch.mm(left, right, out=out)


def wide_product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of bfloat16 matrices, summed and returned in float32; PyTorch has it on GPUs.

    Args:
        left: (n, k) bfloat16.
        right: (k, m) bfloat16.
        out: (n, m) float32; None allocates it.
    """
    multiply: Any = torch.mm  # PyTorch's stubs lack the overload with `out_dtype`
    if out is None:
        return multiply(left, right, out_dtype=torch.float32)
    if out.is_contiguous():
        return multiply(left, right, out_dtype=torch.float32, out=out)
    # The transposed product fills a transposed matrix where it lies.
    multiply(right.T, left.T, out_dtype=torch.float32, out=out.T)
    return out


@lru_cache
def has_wide_products(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices into float32; it is asked once, by trying.

    CPUs say no: they round by themselves.
    """
    if device.type != "cuda":
        return False
    try:
        ones = torch.ones((16, 16), dtype=torch.bfloat16, device=device)
        places = (None, torch.zeros_like(ones, dtype=torch.float32), torch.zeros_like(ones, dtype=torch.float32).T)
        return all(bool((wide_product(ones, ones, place) == 16).all()) for place in places)
    except (RuntimeError, TypeError) as error:
        log.warning("no bfloat16 products with float32 results (%s); TF32 is used", str(error).splitlines()[0])
        return False


@dataclass(frozen=True)
class Kernels:
    """The passes over large matrices.

    Attributes:
        exponentials: (matrix_Bc, highest_B or None): replaces the matrix by e^(matrix - highest), a maximum of None
            counting 0, and gives the (B,) sums of its rows.
        project: (gradient_cD, rows_cD, length_c1, scale, lift, place_bD): from `lift` times the gradient by rows of
            length `scale` to that by the weight w whose rows they are, of length `length_c1`, in place. d(w / |w|)
            has no part along the row: (g - (g . r) r) / |w| with the unit row r. `place_bD` is written over.
    """

    exponentials: Callable[[Tensor, Tensor | None], Tensor]
    project: Callable[[Tensor, Tensor, Tensor, float, float, Tensor], None]


def _plain_exponentials(matrix_Bc: Tensor, highest_B: Tensor | None) -> Tensor:
    if highest_B is not None:
        matrix_Bc.sub_(highest_B[:, None])
    return matrix_Bc.exp_().sum(1)


def _plain_project(
    gradient_cD: Tensor, rows_cD: Tensor, length_c1: Tensor, scale: float, lift: float, place_bD: Tensor
) -> None:
    # In blocks, for the place that their product takes.
    for start in range(0, len(gradient_cD), len(place_bD)):
        block = slice(start, start + len(place_bD))
        gradient_bD, rows_bD = gradient_cD[block], rows_cD[block]
        along_b1 = torch.mul(gradient_bD, rows_bD, out=place_bD[: len(rows_bD)]).sum(1, keepdim=True)
        gradient_bD.addcmul_(rows_bD, along_b1, value=-1 / scale**2).div_(length_c1[block] * lift)


PLAIN = Kernels(_plain_exponentials, _plain_project)


def _exponentials(matrix_Bc: Tensor, highest_B: Tensor | None) -> Tensor:
    e_Bc = (matrix_Bc if highest_B is None else matrix_Bc - highest_B[:, None]).exp()
    matrix_Bc.copy_(e_Bc)
    return e_Bc.sum(1)


def _project(
    gradient_cD: Tensor, rows_cD: Tensor, length_c1: Tensor, scale: float, lift: float, place_bD: Tensor
) -> None:
    along_c1 = (gradient_cD * rows_cD).sum(1, keepdim=True)
    gradient_cD.copy_((gradient_cD - rows_cD * (along_c1 / scale**2)) / (length_c1 * lift))


@lru_cache
def compiled(backend: str = "inductor") -> Kernels:
    """The passes by torch.compile; the first call of each takes seconds, later processes find them in its cache.

    Args:
        backend: of torch.compile. Where it fails (no compiler, no Triton), a warning says so and PLAIN is used.
    """
    return Kernels(_Compiled(_exponentials, _plain_exponentials, backend), _Compiled(_project, _plain_project, backend))


class _Compiled:
    """A compiled function, or the plain one from the first failure on; compilation fails before anything is written."""

    def __init__(self, function: Callable, plain: Callable, backend: str):
        self.plain = plain
        # Batches, chunks and clusters differ in size: one code for all of them.
        self.function: Callable | None = torch.compile(function, backend=backend, dynamic=True)

    def __call__(self, *arguments: Any) -> Any:
        if self.function is not None:
            try:
                return self.function(*arguments)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                cause = getattr(error, "inner_exception", error)
                reason = (str(cause).splitlines() or [type(cause).__name__])[0]
                log.warning("torch.compile failed (%s); uncompiled code is used", reason)
                self.function = None
        return self.plain(*arguments)
