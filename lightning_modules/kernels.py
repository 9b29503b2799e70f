# SPDX-License-Identifier: MIT
"""Matrix products in a stated precision, and rows divided by their length."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

BLOCK = 1 << 24  # numbers of a gradient that are projected at once


def unit_rows(rows_ND: Tensor) -> Tensor:
    """Rows divided by their length: (N, D) float32. Rows of zeros stay zeros.

    The square of a number above 1e19 or below 1e-23 is no float32. A power of two, which costs no digit, brings the
    largest number of each row into [0.5, 1) first.
    """
    rows_ND = rows_ND.float()
    exponent_N1 = torch.frexp(rows_ND.detach().abs().amax(1, keepdim=True)).exponent.clamp(-126, 126)
    return F.normalize(torch.ldexp(rows_ND, -exponent_N1))


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Sets how float32 matrix products are computed, for a while.

    Args:
        precision: "highest" (float32), "high" (TF32 if a GPU has it) or "medium" (operands rounded to bfloat16,
            sums and results in float32), as in `torch.set_float32_matmul_precision`; "low" is "medium" here.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "low" else precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product(left: Tensor, right: Tensor, precision: str, out: Tensor | None = None, gradient: bool = False) -> Tensor:
    """The product of (n, k) and (k, m) float32 matrices, (n, m) float32, in a precision of `matmul_precision`.

    With "medium" a CPU with bfloat16 units rounds the operands itself; one without multiplies float32. A GPU would use
    TF32, half as fast as bfloat16, so its operands are rounded here. `out` may have any strides.

    With "low" a `gradient` is rounded to bfloat16 as well, where `rounds_gradients`. The gradient by a row is then off
    by 0.3 % of its length, and by 2 % if the cosines are 0.995 (what lies along the row cancels). A cosine cannot be
    rounded: 1 - 1e-3 would become 1.
    """
    if precision in ("medium", "low") and has_wide_products(left.device):
        return wide_product(left.bfloat16(), right.bfloat16(), out)
    if gradient and rounds_gradients(precision, left.device):
        # Transposed, since `fused` wants the gradient by the rows so: memory is then written in its order.
        rounded = torch.mm(right.bfloat16().T, left.bfloat16().T).T
        return rounded.float() if out is None else out.copy_(rounded)
    with matmul_precision(precision):
        return torch.mm(left, right, out=out)


def wide_product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """The product of (n, k) and (k, m) bfloat16 matrices, summed and returned in float32: (n, m). GPUs only."""
    multiply: Any = torch.mm  # PyTorch's stubs lack the overload with `out_dtype`
    if out is None:
        return multiply(left, right, out_dtype=torch.float32)
    if out.is_contiguous():
        return multiply(left, right, out_dtype=torch.float32, out=out)
    multiply(right.T, left.T, out_dtype=torch.float32, out=out.T)
    return out


@lru_cache
def has_wide_products(device: torch.device) -> bool:
    """Whether a device has `wide_product`; found by trying it once. A CPU has not."""
    if device.type != "cuda":
        return False
    try:
        ones = torch.ones((16, 16), dtype=torch.bfloat16, device=device)
        places = (None, torch.zeros_like(ones, dtype=torch.float32), torch.zeros_like(ones, dtype=torch.float32).T)
        return all(bool((wide_product(ones, ones, place) == 16).all()) for place in places)
    except (RuntimeError, TypeError) as error:
        log.warning("no bfloat16 products with float32 results (%s); TF32 is used", str(error).splitlines()[0])
        return False


@lru_cache
def rounds_gradients(precision: str, device: torch.device) -> bool:
    """Whether a precision is "low", and a CPU multiplies bfloat16 1.3 times as fast as "medium"; tried once.

    Of five times each the shortest counts: other work on the machine makes them longer only.
    """
    if precision != "low" or device.type != "cpu":
        return False
    ones = torch.ones((512, 512), device=device)

    def seconds(bfloat16: bool) -> float:
        started = time.perf_counter()
        torch.mm(ones.bfloat16(), ones.bfloat16()).float() if bfloat16 else torch.mm(ones, ones)
        return time.perf_counter() - started

    with matmul_precision(precision):
        plain, rounded = (min(seconds(bfloat16) for _ in range(5)) for bfloat16 in (False, True))
    return plain > 1.3 * rounded
