# SPDX-License-Identifier: MIT
"""Losses against closed forms, published tables and another library: values and gradients.

Axes: B batch, C classes, D embedding dimension.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace, ArcFaceValueOnly
from lightning_modules.losses.base import sine_from_cosine
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.softmax import Softmax

S, M = 64.0, 0.5


def value_and_slope(loss, cosine, dtype=torch.float64):
    """Target logit and its derivative by the cosine."""
    cosine = torch.tensor([cosine], dtype=dtype, requires_grad=True)
    logit = loss.target_logit(cosine)
    (slope,) = torch.autograd.grad(logit.sum(), cosine)
    return logit.item(), slope.item()


# ArcFace: closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [1e-3, 0.01, 0.1, 0.9, math.pi / 2, 2.0, math.pi - M - 1e-3])
def test_arcface_is_the_cosine_of_the_widened_angle(theta):
    # d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta)
    value, slope = value_and_slope(ArcFace(S, M), math.cos(theta))
    assert value == pytest.approx(S * math.cos(theta + M), rel=1e-9)
    assert slope == pytest.approx(S * math.sin(theta + M) / math.sin(theta), rel=1e-6)


@pytest.mark.parametrize("theta", [math.pi - M + 1e-3, 2.8, 3.0, math.pi - 1e-3, math.pi])
def test_arcface_past_pi_minus_margin_is_the_shifted_cosine(theta):
    value, slope = value_and_slope(ArcFace(S, M), math.cos(theta))
    assert value == pytest.approx(S * (math.cos(theta) - M * math.sin(M)), rel=1e-12)
    assert slope == pytest.approx(S, rel=1e-12)


def test_arcface_at_angle_zero_is_finite_and_right_to_one_rounding_step():
    # sin(0) is taken as sqrt(float32 eps): the value is off by s sin(m) 3.45e-4, the slope is bounded by 1 / 3.45e-4.
    floor = math.sqrt(torch.finfo(torch.float32).eps)
    for dtype in (torch.float32, torch.float64):
        value, slope = value_and_slope(ArcFace(S, M), 1.0, dtype)
        assert value == pytest.approx(S * math.cos(M), abs=1.01 * S * math.sin(M) * floor)
        assert 0 < slope <= S * (math.cos(M) + math.sin(M) / floor)


@pytest.mark.parametrize("excess", [1e-7, 1e-6])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [ArcFace, ArcFaceValueOnly])
def test_a_cosine_that_rounding_carried_past_one_is_taken_as_one(kind, sign, excess):
    at, past = (value_and_slope(kind(S, M), sign * c) for c in (1.0, 1 + excess))
    assert past == pytest.approx(at, rel=1e-5)


def test_arcface_falls_all_the_way_from_angle_zero_to_pi():
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    logit = ArcFace(S, M).target_logit(torch.cos(theta))
    assert (logit.diff() < 0).all()


@pytest.mark.parametrize("theta", [0.05, 0.3, 1.0, 2.0, 2.5, 2.7, 3.1])
def test_the_slope_in_float32_is_that_of_float64(theta):
    # A float32 cosine is off by 6e-8, an angle by 6e-8 / sin(theta), the slope by about that times its own slope.
    exact = value_and_slope(ArcFace(S, M), math.cos(theta))
    rounded = value_and_slope(ArcFace(S, M), math.cos(theta), torch.float32)
    assert rounded == pytest.approx(exact, rel=1e-7 / math.sin(theta) ** 2 + 1e-6)


def test_the_sine_keeps_its_digits_where_one_minus_the_square_loses_them():
    cosine = torch.cos(torch.linspace(1e-3, 0.1, 500, dtype=torch.float64)).float()
    exact = torch.sin(torch.acos(cosine.double()))
    torch.testing.assert_close(sine_from_cosine(cosine).double(), exact, rtol=1e-6, atol=0)


def test_margin_zero_is_normface():
    cosine = torch.linspace(-1, 1, 101, dtype=torch.float64)
    for kind in (ArcFace, ArcFaceValueOnly, CosFace):
        torch.testing.assert_close(kind(S, 0.0).target_logit(cosine), NormFace(S).target_logit(cosine))


# The loss in the plane, against published numbers ---------------------------------------------------------------------

# Two orthogonal classes, a sample at theta from its own towards the other: loss and d loss / d theta at s = 64,
# m = 0.5, obtained with the classes of each project. Plain and insightface agree with cos(theta + m) in value;
# past pi - m OpenMetricLearning and pytorch-metric-learning take cos(theta) - m sin(m).
PUBLISHED = {
    "arcface": (ArcFace, [(0.9, 39.26, 102.9), (2.0, 109.5, 11.7), (2.7, 100.6, -30.5)]),
    "insightface": (ArcFaceValueOnly, [(0.9, 39.26, 89.9), (2.0, 109.5, 31.6), (2.7, 91.2, -30.5)]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_loss_and_gradient_in_the_plane_are_the_published_ones(name):
    kind, rows = PUBLISHED[name]
    for angle, loss, slope in rows:
        theta = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
        cosine_BC = torch.stack([theta.cos(), theta.sin()])[None]
        found = kind(S, M)(cosine_BC, torch.tensor([0])).sum()
        (gradient,) = torch.autograd.grad(found, theta)
        assert found.item() == pytest.approx(loss, rel=1e-3)
        assert float(gradient) == pytest.approx(slope, rel=4e-3)


def test_the_loss_is_zero_at_angle_zero():
    for kind in (ArcFace, ArcFaceValueOnly, CosFace, NormFace):
        assert float(kind()(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))) == pytest.approx(0, abs=1e-9)


# Every loss: finite differences, other implementations ----------------------------------------------------------------

MARGIN_LOSSES = [ArcFace(S, M), ArcFace(16.0, 0.2), ArcFaceValueOnly(S, M), CosFace(), NormFace(), Softmax()]
EXACT = [
    loss for loss in MARGIN_LOSSES if not isinstance(loss, ArcFaceValueOnly)
]  # whose gradient is that of the value


def names(loss):
    return f"{type(loss).__name__}-{loss.scale:g}"


@pytest.mark.parametrize("loss", EXACT, ids=names)
def test_gradients_agree_with_finite_differences(loss):
    generator = torch.Generator().manual_seed(0)
    cosine_BC = torch.empty(6, 5, dtype=torch.float64).uniform_(-0.85, 0.95, generator=generator)
    cosine_BC[0, 0] = -0.95  # past pi - m
    target_B = torch.arange(6) % 5
    assert torch.autograd.gradcheck(lambda c: loss(c, target_B), cosine_BC.requires_grad_())


def random_problem(batch=32, classes=9, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embedding_BD = F.normalize(torch.randn(batch, dim, generator=generator))
    weight_CD = torch.randn(classes, dim, generator=generator) * 3
    return embedding_BD, weight_CD, torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("name, ours", [("ArcFaceLoss", ArcFace(S, M)), ("CosFaceLoss", CosFace(S, 0.35))])
def test_head_and_loss_agree_with_pytorch_metric_learning(name, ours):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embedding_BD, weight_CD, target_B = random_problem()
    cosine_B = F.cosine_similarity(embedding_BD, weight_CD[target_B])
    assert (cosine_B > -math.cos(M)).float().mean() > 0.9  # the two differ by nothing; most angles are ordinary ones
    margin = math.degrees(M) if name == "ArcFaceLoss" else 0.35
    theirs = getattr(losses, name)(num_classes=9, embedding_size=6, margin=margin, scale=S)
    with torch.no_grad():
        theirs.W.copy_(weight_CD.T)
    head = LinearHead(weight_CD)
    found, gradients = [], []
    for embedding, loss_of, weight in (
        (embedding_BD.clone(), lambda x: theirs(x, target_B), theirs.W),
        (embedding_BD.clone(), lambda x: head.loss(x, target_B, ours).mean(), head.weight_CD),
    ):
        loss = loss_of(embedding.requires_grad_())
        by_embedding, by_weight = torch.autograd.grad(loss, (embedding, weight))
        # Theirs normalises the embeddings too: only the part across the embedding can be compared.
        across = by_embedding - (by_embedding * embedding).sum(1, keepdim=True) * embedding
        found.append(loss.detach())
        gradients.append((across, by_weight if by_weight.shape == weight_CD.shape else by_weight.T))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "loss, logits",
    [
        (NormFace(30.0), lambda c, y: 30 * c),
        (Softmax(), lambda c, y: c),
        (CosFace(64.0, 0.35), lambda c, y: 64 * (c - 0.35 * F.one_hot(y, c.shape[1]))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses_without_an_angle_are_cross_entropy_of_what_their_papers_state(loss, logits):
    cosine_BC = torch.empty(16, 7, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    target_B = torch.arange(16) % 7
    expected = F.cross_entropy(logits(cosine_BC, target_B), target_B, reduction="none")
    torch.testing.assert_close(loss(cosine_BC, target_B), expected)


def test_the_general_form_is_softmax_over_the_stated_logits():
    # logsumexp(z) - z_y by hand, for one sample of three classes.
    cosine = [0.3, 0.8, -0.2]
    logits = [10 * math.cos(math.acos(0.3) + 0.4), 8.0, -2.0]
    expected = math.log(sum(map(math.exp, logits))) - logits[0]
    found = ArcFace(10.0, 0.4)(torch.tensor([cosine], dtype=torch.float64), torch.tensor([0]))
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ArcFace(0.0),
        lambda: ArcFace(64, -0.1),
        lambda: ArcFace(64, math.pi / 2),
        lambda: ArcFace(math.nan),
        lambda: ArcFaceValueOnly(-1),
        lambda: CosFace(64, 1.0),
        lambda: CosFace(-1),
        lambda: NormFace(0),
    ],
)
def test_scales_and_margins_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()
