# SPDX-License-Identifier: MIT
"""The passes between the products: compiled and plain ones agree with each other and with plain autograd."""

import shutil

import pytest
import torch
from torch.nn import functional as F

import lightning_modules.kernels as kernels
from lightning_modules.fused import fused_margin_softmax
from lightning_modules.heads.linear import LinearHead
from lightning_modules.kernels import PLAIN, compiled, has_wide_products, product, wide_product
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.softmax import Softmax
from lightning_modules.sharded_head import all_reduce

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler on a CPU")
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=[needs_a_compiler, pytest.mark.slow])]


def data(classes=9, batch=5, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dim, generator=generator)
    unit = F.normalize(torch.randn(batch, dim, generator=generator))
    return weight, unit, torch.randint(0, classes, (batch,), generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", [ArcFace(), Softmax()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("chunks", [1, 3])
def test_compiled_passes_give_loss_and_gradients_of_plain_autograd(backend, loss, chunks):
    used = compiled(backend)
    for classes, batch in ((9, 5), (9, 3), (12, 5)):  # sizes change from batch to batch and from cluster to cluster
        weight, unit, target = data(classes, batch)
        weight.requires_grad_(), unit.requires_grad_()
        bound = 4 * batch * -(-classes // chunks)
        found = fused_margin_softmax(unit, weight, target, loss, "highest", bound, kernels=used)
        by = torch.autograd.grad(found.sum(), (unit, weight))
        output = unit @ (F.normalize(weight) if loss.unit_rows else weight).T
        expected = loss(output, target)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(by, torch.autograd.grad(expected.sum(), (unit, weight)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert all(kernel.function is not None for kernel in (used.exponentials, used.project)), "compiled to the end"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_sharded_head_takes_compiled_passes_too(backend, chunks):
    weight, unit, target = data()
    weight.requires_grad_(), unit.requires_grad_()
    expected = ArcFace()(unit @ F.normalize(weight).T, target)
    bound = 4 * len(unit) * -(-len(weight) // chunks)
    found = fused_margin_softmax(unit, weight, target, ArcFace(), "highest", bound, None, compiled(backend), all_reduce)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    theirs = torch.autograd.grad(expected.sum(), (unit, weight))
    for ours, one in zip(torch.autograd.grad(found.sum(), (unit, weight)), theirs, strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-4, atol=1e-4)


def test_where_compilation_fails_plain_passes_go_on_after_one_warning(caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand a long story")

    torch._dynamo.reset()
    pass_ = kernels._Compiled(kernels._exponentials, PLAIN.exponentials, broken)
    matrix = torch.randn(4, 7)
    expected = matrix.exp()
    for _ in range(2):
        again = matrix.clone()
        torch.testing.assert_close(pass_(again, None), expected.sum(1))
        torch.testing.assert_close(again, expected)
    (record,) = (record for record in caplog.records if record.name == "lightning_modules.kernels")
    message = "torch.compile failed (no compiler here); uncompiled code is used"
    assert record.levelname == "WARNING" and record.getMessage() == message


def test_a_head_that_compiles_is_told_so_and_any_other_is_plain():
    assert LinearHead(data()[0]).kernels is PLAIN
    assert LinearHead(data()[0], compiled=True).kernels is compiled()


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_the_projection_is_the_derivative_of_a_unit_row_in_blocks_of_any_size(rows):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(9, 6, generator=generator).double().requires_grad_()
    gradient = torch.randn(9, 6, generator=generator).double()
    (expected,) = torch.autograd.grad((7.0 * F.normalize(weight) * gradient).sum(), weight)
    length = weight.detach().norm(dim=1, keepdim=True)
    # By rows of length 7: the chain rule's factor 7 goes into the gradient, 3 is what it was lifted by.
    found = gradient * 7 * 3
    PLAIN.project(found, 7 * F.normalize(weight.detach()), length, 7.0, 3.0, torch.empty(rows, 6, dtype=torch.float64))
    torch.testing.assert_close(found, expected)


# Products -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
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
