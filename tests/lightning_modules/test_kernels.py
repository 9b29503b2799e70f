# SPDX-License-Identifier: MIT
"""Matrix products in a stated precision, and unit rows."""

import pytest
import torch
from torch.nn import functional as F

import lightning_modules.kernels as kernels
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.kernels import has_wide_products, product, rounds_gradients, unit_rows, wide_product
from lightning_modules.losses.arcface import ArcFace


def data(classes=9, batch=5, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dim, generator=generator)
    unit = F.normalize(torch.randn(batch, dim, generator=generator))
    return weight, unit, torch.randint(0, classes, (batch,), generator=generator)


@pytest.mark.parametrize("factor", [1e20, 1e-25, 1e-40, 1.0])
def test_rows_of_any_finite_length_get_unit_length_and_keep_their_direction(factor):
    rows = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    tolerance = 1e-4 if factor == 1e-40 else 1e-6  # a float32 below 1e-38 has few digits
    torch.testing.assert_close(unit_rows((factor * rows).float()), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
def test_a_product_is_that_of_float64_within_its_precision_and_leaves_the_setting(precision):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 64, generator=generator), torch.randn(64, 7, generator=generator)
    before, out = torch.get_float32_matmul_precision(), torch.empty(5, 7)
    transposed = torch.empty(7, 5).T
    assert product(left, right, precision, out) is out
    assert product(left, right, precision, transposed) is transposed
    tolerance = 1e-5 if precision == "highest" else 0.3  # sums of 64 products of operands of 8 bits
    for found in (product(left, right, precision), out, transposed):
        torch.testing.assert_close(found.double(), left.double() @ right.double(), atol=tolerance, rtol=0)
    assert torch.get_float32_matmul_precision() == before


def emulate(monkeypatch):
    """PyTorch's products of bfloat16 with results in float32, which CPUs lack: exact products, summed in float32."""
    calls = []

    def of(multiply):
        def wide(left, right, out_dtype=None, out=None):
            if out_dtype is None:
                return multiply(left, right) if out is None else multiply(left, right, out=out)
            assert left.dtype == right.dtype == torch.bfloat16 and out_dtype == torch.float32
            assert out is None or out.is_contiguous(), "only where rows follow each other"
            calls.append(left.shape)
            found = multiply(left.float(), right.float())
            return found if out is None else out.copy_(found)

        return wide

    monkeypatch.setattr(torch, "mm", of(torch.mm))
    return calls


def test_wide_products_fill_what_they_are_given_however_it_lies(monkeypatch):
    calls = emulate(monkeypatch)
    left = torch.randn(4, 8).bfloat16()
    right = torch.randn(8, 6).bfloat16()
    expected = left.float() @ right.float()
    straight, turned = torch.zeros(4, 6), torch.zeros(6, 4).mT
    torch.testing.assert_close(wide_product(left, right), expected)
    assert wide_product(left, right, straight) is straight
    torch.testing.assert_close(straight, expected)
    assert wide_product(left, right, turned) is turned
    torch.testing.assert_close(turned, expected)
    assert len(calls) == 3


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_device_with_wide_products_rounds_operands_and_nothing_else(chunks, monkeypatch):
    weight, unit, target = data(40, 16, 32)
    weight.requires_grad_()
    exact = fused_margin_softmax(unit, weight, target, ArcFace(), "highest")
    (by_exact,) = torch.autograd.grad(exact.sum(), weight)
    calls = emulate(monkeypatch)
    monkeypatch.setattr(kernels, "has_wide_products", lambda device: True)
    found = fused_margin_softmax(unit, weight, target, ArcFace(), "medium", 4 * 16 * 40 // chunks)
    (by_found,) = torch.autograd.grad(found.sum(), weight)
    assert len(calls) == (2 if chunks == 1 else 3 * chunks)  # several chunks are computed again
    # 8 bits of cosine at s = 64 are 0.25 of a logit; the true class's own logit is float32.
    torch.testing.assert_close(found, exact, atol=0.3, rtol=0.02)
    assert float((by_found - by_exact).norm() / by_exact.norm()) < 0.02
    assert found.dtype == by_found.dtype == torch.float32


def test_processors_round_by_themselves():
    assert not has_wide_products(torch.device("cpu"))


@pytest.fixture
def slow(monkeypatch):
    """`slow(dtype)`: products of that dtype take 20 ms more on the clock of `kernels`, which stands still otherwise."""

    def choose(dtype):
        clock, multiply = [0.0], torch.mm

        def mm(left, right, **more):
            clock[0] += 0.001 + 0.02 * (left.dtype == dtype)
            return multiply(left, right, **more)

        monkeypatch.setattr(torch, "mm", mm)
        monkeypatch.setattr(kernels.time, "perf_counter", lambda: clock[0])
        rounds_gradients.cache_clear()

    yield choose
    rounds_gradients.cache_clear()


@pytest.mark.parametrize("chunks", [1, 2])
def test_low_rounds_gradients_and_no_loss_where_bfloat16_is_faster(chunks, slow):
    weight, unit, target = data(40, 16, 32)
    found = {}
    slow(torch.float32)
    for precision in ("highest", "medium", "low"):
        x, w = unit.clone().requires_grad_(), weight.clone().requires_grad_()
        loss_B = fused_margin_softmax(x, w, target, ArcFace(), precision, 4 * 16 * 40 // chunks)
        found[precision] = (loss_B.detach(), *torch.autograd.grad(loss_B.sum(), (x, w)))
    assert torch.equal(found["low"][0], found["medium"][0])
    for exact, medium, rounded in zip(*(found[precision][1:] for precision in found), strict=True):
        assert rounded.dtype == torch.float32
        # 2^-9 is the most that one rounding changes; operands and results are rounded. A CPU with AMX rounds at medium.
        medium_off, off = (float((got - exact).norm() / exact.norm()) for got in (medium, rounded))
        assert 1e-4 < off < 3 * 2**-9 + medium_off


def test_gradients_are_rounded_only_if_asked_for_and_if_that_is_faster_on_the_processor(slow):
    cpu = torch.device("cpu")
    slow(torch.float32)
    assert rounds_gradients("low", cpu)
    assert not rounds_gradients("medium", cpu) and not rounds_gradients("low", torch.device("cuda"))
    slow(torch.bfloat16)
    assert not rounds_gradients("low", cpu)
    left, right = data()[0], data(seed=1)[0].T
    assert torch.equal(product(left, right, "low", gradient=True), product(left, right, "medium"))
