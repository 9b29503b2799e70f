# SPDX-License-Identifier: MIT
"""The fused head and loss against the plain formulation under autograd, and against float64.

Axes: B batch, C classes, D embedding dimension.
"""

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.fused import fused_margin_softmax, target_terms
from lightning_modules.kernels import matmul_precision
from lightning_modules.losses.a_softmax import ASoftmax
from lightning_modules.losses.arcface import ArcFace, ArcFaceValueOnly
from lightning_modules.losses.base import MarginLoss
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.softmax import Softmax
from tests.rounding import rounding

LOSSES = [ArcFace(), ArcFace(8.0, 0.2), ArcFaceValueOnly(), CosFace(), NormFace(), Softmax(), Softmax(9.0)]
WHOLE, ONE_CLASS_AT_A_TIME, THREE_AT_A_TIME = 1 << 30, 1, 4 * 24 * 3


def name(loss):
    return f"{type(loss).__name__}-{loss.scale:g}"


def problem(batch=24, classes=10, dim=5, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight_CD = torch.randn(classes, dim, generator=generator, dtype=torch.float64) * 2
    target_B = torch.randint(classes, (batch,), generator=generator)
    embedding_BD = F.normalize(torch.randn(batch, dim, generator=generator, dtype=torch.float64) + weight_CD[target_B])
    weight_B = torch.rand(batch, generator=generator, dtype=torch.float64)  # of each sample in the sum
    return embedding_BD.to(dtype), weight_CD.to(dtype), target_B, weight_B.to(dtype)


def plain(embedding_BD, weight_CD, target_B, loss):
    rows_CD = F.normalize(weight_CD) if loss.unit_rows else weight_CD
    return loss(embedding_BD @ rows_CD.T, target_B)


def results(function, embedding_BD, weight_CD, weight_B):
    embedding_BD, weight_CD = (x.detach().clone().requires_grad_() for x in (embedding_BD, weight_CD))
    loss_B = function(embedding_BD, weight_CD)
    return loss_B.detach(), *torch.autograd.grad((loss_B * weight_B).sum(), (embedding_BD, weight_CD))


@pytest.mark.parametrize("max_logits_bytes", [WHOLE, THREE_AT_A_TIME, ONE_CLASS_AT_A_TIME])
@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_value_and_gradients_are_those_of_the_plain_formulation_in_float64(loss, max_logits_bytes):
    embedding_BD, weight_CD, target_B, weight_B = problem()
    reference = results(
        lambda x, w: plain(x, w, target_B, loss), embedding_BD.double(), weight_CD.double(), weight_B.double()
    )
    fused = results(
        lambda x, w: fused_margin_softmax(x, w, target_B, loss, max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, weight_B,
    )  # fmt: skip
    for found, expected in zip(fused, reference, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("max_logits_bytes", [WHOLE, THREE_AT_A_TIME])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, ArcFaceValueOnly)], ids=name)
def test_gradients_agree_with_finite_differences(loss, max_logits_bytes):
    embedding_BD, weight_CD, target_B, weight_B = problem(6, 4, 3, torch.float64)
    _, by_embedding, by_weight = results(
        lambda x, w: fused_margin_softmax(x, w, target_B, loss, max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, weight_B,
    )  # fmt: skip

    def total(x, w):
        return float((fused_margin_softmax(x, w, target_B, loss) * weight_B).sum())

    h = 1e-6
    for tensor, gradient, value in (
        (embedding_BD, by_embedding, lambda t: total(t, weight_CD)),
        (weight_CD, by_weight, lambda t: total(embedding_BD, t)),
    ):
        for place in range(tensor.numel()):
            step = torch.zeros_like(tensor).view(-1)
            step[place] = h
            step = step.view_as(tensor)
            numeric = (value(tensor + step) - value(tensor - step)) / (2 * h)
            assert float(gradient.reshape(-1)[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-5)


def test_inputs_are_not_changed():
    embedding_BD, weight_CD, target_B, weight_B = problem()
    before = [x.clone() for x in (embedding_BD, weight_CD, target_B)]
    results(lambda x, w: fused_margin_softmax(x, w, target_B, ArcFace()), embedding_BD, weight_CD, weight_B)
    assert all(torch.equal(a, b) for a, b in zip(before, (embedding_BD, weight_CD, target_B), strict=True))


@pytest.mark.parametrize("max_logits_bytes", [WHOLE, THREE_AT_A_TIME])
@pytest.mark.parametrize("which", ["embedding", "weight"])
def test_either_gradient_alone_is_the_same_as_with_the_other(which, max_logits_bytes):
    embedding_BD, weight_CD, target_B, _ = problem()
    both = results(
        lambda x, w: fused_margin_softmax(x, w, target_B, CosFace(), max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, torch.ones(24),
    )  # fmt: skip
    embedding_BD.requires_grad_(which == "embedding")
    weight_CD.requires_grad_(which == "weight")
    fused_margin_softmax(
        embedding_BD, weight_CD, target_B, CosFace(), max_logits_bytes=max_logits_bytes
    ).sum().backward()
    one, other = (embedding_BD, weight_CD) if which == "embedding" else (weight_CD, embedding_BD)
    # Scale x probability x vector, and the probability errs by the scale times the rounding of a cosine.
    tolerance = 64 * 64 * rounding(embedding_BD.shape[1])
    torch.testing.assert_close(one.grad, both[1 if which == "embedding" else 2], rtol=0, atol=tolerance)
    assert other.grad is None


@pytest.mark.parametrize("max_logits_bytes", [WHOLE, THREE_AT_A_TIME])
def test_a_sample_that_is_hopelessly_wrong_has_a_finite_loss_and_the_full_gradient(max_logits_bytes):
    # p of the true class is exp(-3000), zero in float32; the loss is 3000 and d loss / d cosines are -s and +s.
    scale = 1500.0
    embedding_BD, weight_CD = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss_B, by_embedding, _ = results(
        lambda x, w: fused_margin_softmax(x, w, torch.tensor([0]), NormFace(scale), max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, torch.ones(1),
    )  # fmt: skip
    assert loss_B.item() == pytest.approx(3000)
    assert by_embedding[0].tolist() == pytest.approx([2 * scale, 0.0])


@pytest.mark.parametrize("loss", [ArcFace(), CosFace(), ASoftmax()], ids=name)
@pytest.mark.parametrize("max_logits_bytes", [WHOLE, ONE_CLASS_AT_A_TIME])
def test_a_single_class_costs_nothing_and_teaches_nothing(loss, max_logits_bytes):
    embedding_BD, weight_CD, _, weight_B = problem(classes=1, dim=2)
    embedding_BD[0] = -F.normalize(weight_CD[0], dim=0)  # where e^logit is zero in float32
    zero_B = torch.zeros(24, dtype=torch.long)
    loss_B, *gradients = results(
        lambda x, w: fused_margin_softmax(x, w, zero_B, loss, max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, weight_B,
    )  # fmt: skip
    assert loss_B.abs().max() == 0 and all(gradient.abs().max() == 0 for gradient in gradients)


@pytest.mark.parametrize("length", [1.4, 3.0, 40.0])
def test_embeddings_that_are_not_of_unit_length_get_the_plain_formulation_too(length):
    embedding_BD, weight_CD, target_B, weight_B = problem()
    embedding_BD = embedding_BD * length
    expected = results(
        lambda x, w: plain(x, w, target_B, CosFace()), embedding_BD.double(), weight_CD.double(), weight_B.double()
    )
    fused = results(lambda x, w: fused_margin_softmax(x, w, target_B, CosFace()), embedding_BD, weight_CD, weight_B)
    for found, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=2e-4 * length)


def test_gradients_of_rows_are_projected_block_by_block(monkeypatch):
    embedding_BD, weight_CD, target_B, weight_B = problem()
    expected = results(lambda x, w: plain(x, w, target_B, CosFace()), embedding_BD, weight_CD, weight_B)
    monkeypatch.setattr("lightning_modules.fused.BLOCK", 3 * embedding_BD.shape[1])
    found = results(lambda x, w: fused_margin_softmax(x, w, target_B, CosFace()), embedding_BD, weight_CD, weight_B)
    torch.testing.assert_close(found[2], expected[2], rtol=2e-4, atol=2e-4)


def test_the_length_of_a_row_does_not_matter_and_its_gradient_is_across_it():
    embedding_BD, weight_CD, target_B, weight_B = problem()
    one, other = (
        results(lambda x, w: fused_margin_softmax(x, w, target_B, ArcFace()), embedding_BD, w, weight_B)
        for w in (weight_CD, 7 * weight_CD)
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[2], 7 * other[2], rtol=1e-4, atol=1e-4)
    assert ((one[2] * weight_CD).sum(1).abs() < 1e-3 * one[2].norm(dim=1) * weight_CD.norm(dim=1)).all()


def test_classes_may_be_renumbered():
    embedding_BD, weight_CD, target_B, weight_B = problem()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    place = torch.argsort(order)
    one = results(lambda x, w: fused_margin_softmax(x, w, target_B, ArcFace()), embedding_BD, weight_CD, weight_B)
    other = results(
        lambda x, w: fused_margin_softmax(x, w, place[target_B], ArcFace()), embedding_BD, weight_CD[order], weight_B
    )
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[2][order], other[2], rtol=1e-4, atol=1e-5)


class ToTheThird(MarginLoss):
    """A loss that the fused path has never seen: target logit s cos(theta)^3."""

    scale = 10.0

    def target_logit(self, cosine_B):
        return self.scale * cosine_B**3


def test_a_new_loss_gets_its_derivative_from_autograd():
    embedding_BD, weight_CD, target_B, weight_B = problem(dtype=torch.float64)
    fused = results(lambda x, w: fused_margin_softmax(x, w, target_B, ToTheThird()), embedding_BD, weight_CD, weight_B)
    expected = results(lambda x, w: plain(x, w, target_B, ToTheThird()), embedding_BD, weight_CD, weight_B)
    for found, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(found, wanted)


class ArcFaceOfAnotherLogit(ArcFace):
    """Inherits the closed-form slope of a logit that it does not have."""

    def target_logit(self, cosine_B):
        return 0.5 * super().target_logit(cosine_B)


@pytest.mark.parametrize("loss", [*LOSSES, ArcFaceOfAnotherLogit()], ids=name)
def test_slopes_in_closed_form_are_those_of_autograd(loss):
    cosine_B = torch.cat([torch.linspace(-1, 1, 2001), torch.tensor([1 - 1e-7, -1 + 1e-7, 1 + 1e-7, -1 - 1e-7])])
    wanted_B = cosine_B.clone().requires_grad_()
    loss.target_logit(wanted_B).sum().backward()
    logit_B, slope_B, penalty_B, penalty_slope_B = target_terms(loss, cosine_B)
    torch.testing.assert_close(slope_B, wanted_B.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logit_B, loss.target_logit(cosine_B))
    assert penalty_B is None and penalty_slope_B is None


class FarAbove(MarginLoss):
    """A true class whose logit is far above the scale, where e^logit overflows float32."""

    scale = 10.0

    def target_logit(self, cosine_B):
        return 200.0 + cosine_B


@pytest.mark.parametrize("max_logits_bytes", [WHOLE, THREE_AT_A_TIME])
@pytest.mark.parametrize("loss", [NormFace(64.0), NormFace(76.0), NormFace(300.0), CosFace(64.0, 0.9), FarAbove()])
def test_the_ends_of_the_range_of_float32_are_not_felt(loss, max_logits_bytes):
    # Every cosine is +1 or -1: all at the top, all at the bottom, and the true class alone at either end.
    top, bottom = [1.0, 0.0], [-1.0, 0.0]
    weight_CD = torch.tensor([top, bottom, bottom, bottom])
    embedding_BD = torch.tensor([top, bottom, bottom, top])
    target_B = torch.tensor([0, 0, 1, 2])
    weight_B = torch.tensor([1.0, 1e-3, 1.0, 1e-3], dtype=torch.float64)
    fused = results(
        lambda x, w: fused_margin_softmax(x, w, target_B, loss, max_logits_bytes=max_logits_bytes),
        embedding_BD, weight_CD, weight_B,
    )  # fmt: skip
    expected = results(lambda x, w: plain(x, w, target_B, loss), embedding_BD.double(), weight_CD.double(), weight_B)
    for found, wanted in zip(fused, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


def test_lower_precision_is_close_and_is_given_back():
    embedding_BD, weight_CD, target_B, _ = problem(dim=32)
    exact, rough = (
        fused_margin_softmax(embedding_BD, weight_CD, target_B, ArcFace(), precision)
        for precision in ("highest", "medium")
    )
    torch.testing.assert_close(exact, rough, rtol=0.02, atol=64 * 2**-7)
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


def test_gradients_are_computed_although_the_caller_switched_them_off_for_the_rest():
    embedding_BD, weight_CD, target_B, _ = problem()
    with torch.no_grad():
        without = fused_margin_softmax(embedding_BD, weight_CD, target_B, ArcFace())
    assert not without.requires_grad
    torch.testing.assert_close(without, fused_margin_softmax(embedding_BD, weight_CD, target_B, ArcFace()))
