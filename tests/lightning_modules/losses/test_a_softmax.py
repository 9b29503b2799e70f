# SPDX-License-Identifier: MIT
"""A-Softmax against the piecewise formula of the paper, and against pytorch-metric-learning."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.a_softmax import ASoftmax, psi
from lightning_modules.losses.normface import NormFace


def psi_of_angle(theta, m):
    """Found by walking through the pieces: theta lies in [k pi / m, (k + 1) pi / m]."""
    k = 0
    while theta > (k + 1) * math.pi / m:
        k += 1
    return (-1) ** k * math.cos(m * theta) - 2 * k


@pytest.mark.parametrize("m", [1.0, 1.7, 2.0, 3.0, 4.0])
def test_psi_is_the_piecewise_formula_of_the_paper(m):
    for theta in [0.05, 0.3, 0.78, 0.8, 1.5, 1.6, 2.0, 2.4, 3.0, 3.1]:
        cosine = torch.tensor(math.cos(theta), dtype=torch.float64, requires_grad=True)
        value = psi(cosine, m)
        value.backward()
        assert value.item() == pytest.approx(psi_of_angle(theta, m), abs=1e-9)
        h = 1e-6
        by_angle = (psi_of_angle(theta + h, m) - psi_of_angle(theta - h, m)) / (2 * h)
        assert cosine.grad.item() == pytest.approx(-by_angle / math.sin(theta), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("m", [2.0, 3.0, 4.0])
def test_psi_at_the_ends_is_the_chebyshev_polynomial_with_slope_m_squared(m):
    # cos(m theta) is T_m(cos theta), whose slope at 1 is m^2; psi runs from 1 down to 1 - 2 m.
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 2e-3)):
        for end, expected in ((1.0, 1.0), (-1.0, 1 - 2 * m)):
            cosine = torch.tensor(end, dtype=dtype, requires_grad=True)
            value = psi(cosine, m)
            value.backward()
            assert value.item() == pytest.approx(expected, abs=1e-5)
            assert cosine.grad.item() == pytest.approx(m * m, rel=tolerance)


@pytest.mark.parametrize("m", [1.7, 4.0])
def test_the_target_logit_falls_all_the_way_from_angle_zero_to_pi(m):
    theta = torch.linspace(1e-3, math.pi - 1e-3, 10_001, dtype=torch.float64)
    logit = ASoftmax(margin=m).target_logit(theta.cos())
    assert (logit.diff() < 0).all()


@pytest.mark.parametrize("scale, m, annealing", [(30.0, 4.0, 5.0), (10.0, 2.0, 0.0), (30.0, 1.7, 0.0)])
def test_the_loss_is_cross_entropy_of_the_annealed_formula(agrees, cross_entropy, cosines, scale, m, annealing):
    def reference(row, target):
        with_margin = (annealing * row[target] + psi_of_angle(math.acos(row[target]), m)) / (1 + annealing)
        return cross_entropy([scale * (with_margin if c == target else row[c]) for c in range(len(row))], target)

    agrees(ASoftmax(scale, m, annealing), reference, *cosines())


def test_margin_one_and_endless_annealing_are_normface():
    cosine_B = torch.linspace(-1, 1, 101, dtype=torch.float64)
    plain = NormFace(30.0).target_logit(cosine_B)
    torch.testing.assert_close(ASoftmax(30.0, 1.0, 0.0).target_logit(cosine_B), plain, rtol=0, atol=3e-6)
    torch.testing.assert_close(ASoftmax(30.0, 4.0, 1e9).target_logit(cosine_B), plain, rtol=0, atol=1e-6)


def test_head_and_loss_agree_with_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    generator = torch.Generator().manual_seed(1)
    embedding_BD = F.normalize(torch.randn(24, 6, generator=generator))
    rows_CD = F.normalize(torch.randn(7, 6, generator=generator))
    target_B = torch.arange(24) % 7
    theirs = losses.SphereFaceLoss(num_classes=7, embedding_size=6, margin=4, scale=20)
    with torch.no_grad():
        theirs.W.copy_(rows_CD.T)
    head, ours = LinearHead(rows_CD), ASoftmax(20.0, 4.0, 0.0)
    expected = theirs(embedding_BD, target_B)
    found = head.loss(embedding_BD, target_B, ours).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (by_theirs,) = torch.autograd.grad(expected, theirs.W)
    (by_ours,) = torch.autograd.grad(found, head.weight_CD)
    torch.testing.assert_close(by_ours, by_theirs.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arguments", [{"scale": 0}, {"margin": 0.9}, {"annealing": -1}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        ASoftmax(**arguments)
