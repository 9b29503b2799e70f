# SPDX-License-Identifier: MIT
"""A stack of heads is its heads one by one."""

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.fused import fused_margin_softmax
from lightning_modules.losses.adaface import AdaFace
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.softmax import Softmax
from lightning_modules.losses.sub_center_arcface import SubCenterArcFace
from lightning_modules.losses.uniface import UniFace
from lightning_modules.stacked import can_stack, stacked_margin_softmax

SIZES, BATCHES, DIM = (5, 1, 9), (4, 6, 1), 7


@pytest.mark.parametrize("loss", [ArcFace(), ArcFace(16.0, 0.2), CosFace(), Softmax()], ids=repr)
def test_losses_and_gradients_are_those_of_each_head_alone(loss):
    assert can_stack(loss)
    generator = torch.Generator().manual_seed(0)
    heads, width, batch = len(SIZES), max(SIZES), max(BATCHES)
    weight_SCD, unit_SBD = torch.zeros(heads, width, DIM), torch.randn(heads, batch, DIM, generator=generator)
    unit_SBD = F.normalize(unit_SBD, dim=2)
    target_SB, sample_SB = torch.zeros(heads, batch, dtype=torch.long), torch.zeros(heads, batch)
    for s, (classes, samples) in enumerate(zip(SIZES, BATCHES, strict=True)):
        weight_SCD[s, :classes] = torch.randn(classes, DIM, generator=generator)
        target_SB[s, :samples] = torch.randint(classes, (samples,), generator=generator)
        sample_SB[s, :samples] = 1 / samples
    padding_SC = torch.arange(width) >= torch.tensor(SIZES)[:, None]
    loss_SB, gradient_SCD = stacked_margin_softmax(unit_SBD, weight_SCD, target_SB, sample_SB, padding_SC, loss)
    for s, (classes, samples) in enumerate(zip(SIZES, BATCHES, strict=True)):
        weight_CD = weight_SCD[s, :classes].clone().requires_grad_()
        alone_B = fused_margin_softmax(unit_SBD[s, :samples], weight_CD, target_SB[s, :samples], loss)
        (expected_CD,) = torch.autograd.grad(alone_B.mean(), weight_CD)
        torch.testing.assert_close(loss_SB[s, :samples], alone_B.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient_SCD[s, :classes], expected_CD, rtol=1e-4, atol=1e-5)
        assert not gradient_SCD[s, classes:].any()


def test_losses_that_need_more_than_the_cosines_of_one_row_a_class_are_trained_alone():
    assert not any(map(can_stack, (SubCenterArcFace(), AdaFace(), UniFace())))
