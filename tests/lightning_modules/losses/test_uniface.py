# SPDX-License-Identifier: MIT
"""UniFace against its formula, sample by sample and class by class."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.losses.uniface import UniFace


@pytest.mark.parametrize("scale, margin, weight, bias", [(64.0, 0.4, 1.0, None), (8.0, 0.0, 0.5, 2.0)])
def test_the_loss_is_a_binary_loss_per_class(agrees, cosines, scale, margin, weight, bias):
    def reference(row, target):
        b = math.log(10 * len(row)) if bias is None else bias
        positive = math.log1p(math.exp(b - scale * (row[target] - margin)))
        return positive + weight * sum(
            math.log1p(math.exp(scale * cosine - b)) for c, cosine in enumerate(row) if c != target
        )

    agrees(UniFace(scale, margin, weight, bias), reference, *cosines())


def test_without_margin_it_is_binary_cross_entropy_with_logits(cosines):
    rows, targets = cosines()
    cosine_BC, target_B = torch.tensor(rows), torch.tensor(targets)
    logit_BC = 16 * cosine_BC - 3
    expected_BC = F.binary_cross_entropy_with_logits(logit_BC, F.one_hot(target_B, 5).to(logit_BC), reduction="none")
    torch.testing.assert_close(UniFace(16.0, 0.0, 1.0, 3.0)(cosine_BC, target_B), expected_BC.sum(1))


def test_the_default_bias_expects_a_tenth_of_a_positive_of_an_untrained_head():
    classes = 500
    cosine_BC = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
    UniFace(scale=1.0)(cosine_BC, torch.tensor([0])).sum().backward()
    # d log(1 + e^z) / dz = sigmoid(z): what the other classes claim of the sample
    claimed = float(cosine_BC.grad[0, 1:].sum()) / (classes - 1) * classes
    assert claimed == pytest.approx(0.1, rel=1e-3)


def test_hard_pairs_keep_their_gradient_where_the_published_code_clamps():
    cosine_BC = torch.tensor([[-0.9, 0.95]], requires_grad=True)
    loss = UniFace(64.0, 0.4, 1.0, 4.0)(cosine_BC, torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(64 * 1.3 + 4 + 64 * 0.95 - 4, rel=1e-6)
    assert cosine_BC.grad.tolist()[0] == pytest.approx([-64, 64], rel=1e-6)


@pytest.mark.parametrize("arguments", [{"scale": 0}, {"margin": 1}, {"weight": 0}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        UniFace(**arguments)
