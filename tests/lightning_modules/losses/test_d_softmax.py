# SPDX-License-Identifier: MIT
"""D-Softmax against its two terms, on the plain and on the fused path."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.d_softmax import DSoftmax


def two_terms(scale, stop):
    def reference(row, target):
        others = sum(math.exp(scale * cosine) for c, cosine in enumerate(row) if c != target)
        return math.log1p(math.exp(scale * (stop - row[target]))) + math.log1p(others)

    return reference


@pytest.mark.parametrize("scale, stop", [(32.0, 0.9), (4.0, 0.5)])
def test_the_loss_is_the_sum_of_two_terms_that_do_not_see_each_other(agrees, cosines, scale, stop):
    agrees(DSoftmax(scale, stop), two_terms(scale, stop), *cosines())


def test_the_fused_path_gives_the_value_and_gradients_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    embedding_BD = F.normalize(torch.randn(10, 4, generator=generator)).requires_grad_()
    rows_CD, target_B = torch.randn(6, 4, generator=generator), torch.arange(10) % 6
    for most in (1 << 30, 80):  # all classes at once, and two at a time
        head = LinearHead(rows_CD, max_logits_bytes=most)
        loss_B = head.loss(embedding_BD, target_B, DSoftmax())
        found = torch.autograd.grad(loss_B.sum(), (embedding_BD, head.weight_CD))
        with torch.enable_grad():
            weight_CD = rows_CD.clone().requires_grad_()
            cosine_BC = embedding_BD @ F.normalize(weight_CD).T
            own_B = cosine_BC.gather(1, target_B[:, None]).squeeze(1)
            others_B = torch.exp(32 * cosine_BC).sum(1) - torch.exp(32 * own_B)
            expected_B = torch.log1p(torch.exp(32 * (0.9 - own_B))) + torch.log1p(others_B)
        expected = torch.autograd.grad(expected_B.sum(), (embedding_BD, weight_CD))
        torch.testing.assert_close(loss_B, expected_B, rtol=1e-5, atol=1e-4)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_pull_on_the_true_class_is_halved_at_the_stopping_cosine_and_gone_behind_it():
    cosine_B = torch.tensor([-1.0, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    DSoftmax(320.0, 0.9).penalty(cosine_B).sum().backward()
    assert cosine_B.grad.tolist() == pytest.approx([-320, -160, 0], abs=1e-9)


@pytest.mark.parametrize("arguments", [{"scale": 0}, {"stop": 1.1}, {"stop": -1}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        DSoftmax(**arguments)
