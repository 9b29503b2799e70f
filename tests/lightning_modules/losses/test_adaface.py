# SPDX-License-Identifier: MIT
"""AdaFace against its formula with lengths, its special cases and its statistics."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.adaface import AdaFace
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.cosface import CosFace


def of_statistics(mean, std, **arguments):
    loss = AdaFace(**arguments).eval()
    loss.mean.fill_(mean), loss.std.fill_(std)
    return loss


def test_the_loss_is_the_formula_of_the_paper_sample_by_sample(agrees, cross_entropy, cosines):
    rows, targets = cosines(batch=20)
    lengths = torch.linspace(5, 60, 20).tolist()
    loss = of_statistics(25.0, 8.0, scale=20.0)
    of_sample = {tuple(row): length for row, length in zip(rows, lengths, strict=True)}
    for row, target in zip(rows, targets, strict=True):
        quality = max(-1, min(1, 0.333 * (of_sample[tuple(row)] - 25) / (8 + 1e-3)))

        def reference(cosines, target, quality=quality):
            angle = min(max(math.acos(cosines[target]) - 0.4 * quality, 0), math.pi)
            own = math.cos(angle) - 0.4 * (1 + quality)
            return cross_entropy([20 * (own if c == target else cosine) for c, cosine in enumerate(cosines)], target)

        bound = loss.for_lengths(torch.tensor([of_sample[tuple(row)]]))
        bound.quality_B = torch.tensor([quality], dtype=torch.float64)  # float32 lengths would cap the precision
        agrees(bound, reference, [row], [target])


def test_quality_is_the_clipped_distance_from_the_mean_length():
    loss = of_statistics(20.0, 4.0)
    bound = loss.for_lengths(torch.tensor([1.0, 20.0, 24.0, 90.0, 5000.0]))
    step = 0.333 * 4 / 4.001
    assert bound.quality_B.tolist() == pytest.approx([-1.0, 0.0, step, 1.0, 1.0], rel=1e-5)
    assert loss.for_lengths(torch.tensor([16.0])).quality_B.item() == pytest.approx(-step, rel=1e-5)


def test_poor_quality_is_arcface_and_average_quality_is_cosface():
    cosine_B = torch.linspace(-0.85, 0.999, 50)
    loss = of_statistics(20.0, 1.0)
    poor, average = (loss.for_lengths(torch.full((50,), length)) for length in (1.0, 20.0))
    torch.testing.assert_close(poor.target_logit(cosine_B), ArcFace(64.0, 0.4).target_logit(cosine_B))
    torch.testing.assert_close(average.target_logit(cosine_B), CosFace(64.0, 0.4).target_logit(cosine_B))
    torch.testing.assert_close(loss.target_logit(cosine_B), CosFace(64.0, 0.4).target_logit(cosine_B))


def test_the_angle_is_clipped_with_slope_zero_where_a_good_sample_is_close():
    bound = of_statistics(20.0, 1.0).for_lengths(torch.full((2,), 90.0))  # quality 1: theta - 0.4
    cosine_B = torch.tensor([math.cos(0.3), math.cos(0.5)], requires_grad=True)
    logit_B = bound.target_logit(cosine_B)
    logit_B.sum().backward()
    assert logit_B.tolist() == pytest.approx([64 * (1 - 0.8), 64 * (math.cos(0.1) - 0.8)], rel=1e-5)
    assert cosine_B.grad.tolist() == pytest.approx([0, 64 * math.sin(0.1) / math.sin(0.5)], rel=1e-5)


def test_the_statistics_are_those_of_all_training_samples(samples):
    loss = AdaFace()
    fitted = loss.fit(samples([200.0, 210.0, 250.0], [0, 0, 1]))
    assert fitted.mean.item() == pytest.approx(220)
    assert fitted.std.item() == pytest.approx(math.sqrt((20**2 + 10**2 + 30**2) / 3))
    assert (loss.mean.item(), loss.std.item()) == (20, 100) and set(fitted.state_dict()) == {"mean", "std"}
    short, mean, long = fitted.for_lengths(torch.tensor([180.0, 220.0, 1000.0])).quality_B.tolist()
    assert short < mean == 0 < long == 1


@pytest.mark.parametrize("length", [1e-25, 1.0, 1e20])
def test_equal_lengths_of_any_size_are_average(samples, length):
    fitted = AdaFace().fit(samples([length] * 3, [0, 0, 1]))
    assert fitted.for_lengths(torch.full((2,), length)).quality_B.abs().max() < 1e-3


def test_the_fused_path_agrees_with_the_plain_one_for_every_quality():
    generator = torch.Generator().manual_seed(0)
    embedding_BD = F.normalize(torch.randn(16, 5, generator=generator))
    head, target_B = LinearHead(torch.randn(7, 5, generator=generator)), torch.arange(16) % 7
    bound = of_statistics(20.0, 5.0).for_lengths(torch.linspace(1, 60, 16))
    fused_B, plain_B = head.loss(embedding_BD, target_B, bound), bound(head(embedding_BD), target_B)
    torch.testing.assert_close(fused_B, plain_B, rtol=1e-5, atol=1e-5)
    by_fused, by_plain = (torch.autograd.grad(loss_B.sum(), head.weight_CD)[0] for loss_B in (fused_B, plain_B))
    torch.testing.assert_close(by_fused, by_plain, rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_at_both_ends():
    bound = of_statistics(20.0, 5.0).for_lengths(torch.tensor([1.0, 20.0, 60.0] * 2))
    cosine_B = torch.tensor([1.0] * 3 + [-1.0] * 3, requires_grad=True)
    bound.target_logit(cosine_B).sum().backward()
    assert torch.isfinite(cosine_B.grad).all()


@pytest.mark.parametrize("arguments", [{"scale": 0}, {"margin": 1}, {"concentration": 0}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        AdaFace(**arguments)
