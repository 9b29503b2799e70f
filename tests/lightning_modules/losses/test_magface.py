# SPDX-License-Identifier: MIT
"""MagFace against its formula with lengths, and its special cases."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.magface import MagFace


@pytest.mark.parametrize("easy", [True, False])
@pytest.mark.parametrize("length", [3.0, 10.0, 40.0, 110.0, 300.0])
def test_the_loss_is_the_formula_of_the_paper(agrees, cross_entropy, cosines, length, easy):
    a = min(max(length, 10), 110)
    margin = (0.8 - 0.45) / (110 - 10) * (a - 10) + 0.45
    regulariser = 35 * (a / 110**2 + 1 / a)

    def reference(row, target):
        theta = math.acos(row[target])
        if easy:
            own = math.cos(theta + margin) if row[target] > 0 else row[target]
        else:
            own = math.cos(theta + margin) if theta < math.pi - margin else row[target] - margin * math.sin(margin)
        return (
            cross_entropy([64 * (own if c == target else cosine) for c, cosine in enumerate(row)], target) + regulariser
        )

    bound = MagFace(easy_margin=easy).for_lengths(torch.full((12,), length))
    bound._length_B = bound._length_B.double()
    agrees(bound, reference, *cosines())


def test_equal_margins_are_arcface():
    cosine_B = torch.linspace(-1, 1, 51)
    loss = MagFace(lower_margin=0.5, upper_margin=0.5, easy_margin=False)
    bound = loss.for_lengths(torch.linspace(5, 200, 51))
    torch.testing.assert_close(bound.target_logit(cosine_B), ArcFace().target_logit(cosine_B), rtol=1e-5, atol=1e-5)


def test_longer_embeddings_have_lower_target_logits():
    bound = MagFace().for_lengths(torch.tensor([10.0, 30.0, 60.0, 110.0]))
    assert (bound.target_logit(torch.full((4,), 0.6)).diff() < 0).all()


def test_the_fused_path_agrees_with_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    embedding_BD = F.normalize(torch.randn(16, 5, generator=generator))
    head, target_B = LinearHead(torch.randn(7, 5, generator=generator)), torch.arange(16) % 7
    bound = MagFace().for_lengths(torch.linspace(1, 160, 16))
    fused_B, plain_B = head.loss(embedding_BD, target_B, bound), bound(head(embedding_BD), target_B)
    torch.testing.assert_close(fused_B, plain_B, rtol=1e-5, atol=1e-5)
    by_fused, by_plain = (torch.autograd.grad(loss_B.sum(), head.weight_CD)[0] for loss_B in (fused_B, plain_B))
    torch.testing.assert_close(by_fused, by_plain, rtol=1e-4, atol=1e-4)


def test_bounds_that_are_not_given_are_quantiles_of_the_training_samples(samples):
    made = samples([2 + 0.01 * i for i in range(101)], [0] * 101)
    fitted, given = MagFace().fit(made), MagFace(lower_length=1.0, upper_length=9.0).fit(made)
    assert (fitted.lower_length, fitted.upper_length) == pytest.approx((2.01, 2.99))
    assert (given.lower_length, given.upper_length) == (1, 9)
    logit_B = fitted.for_lengths(torch.tensor([2.0, 2.01, 2.5, 2.99, 3.0])).target_logit(torch.full((5,), 0.6))
    assert logit_B[0] == logit_B[1] > logit_B[2] > logit_B[3] == logit_B[4]


def test_equal_lengths_have_the_lower_margin(samples):
    fitted = MagFace().fit(samples([7.0] * 3, [0, 0, 1]))
    logit_B = fitted.for_lengths(torch.full((2,), 7.0)).target_logit(torch.full((2,), 0.6))
    torch.testing.assert_close(logit_B, ArcFace(64.0, 0.45).target_logit(torch.full((2,), 0.6)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": 0},
        {"lower_length": 0},
        {"lower_length": 10.0, "upper_length": 5},
        {"upper_margin": 1.6},
        {"length_weight": -1},
    ],
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        MagFace(**arguments)
