# SPDX-License-Identifier: MIT
"""Losses that hold parameters, look at their samples, or change with the epoch, against plain loops.

Axes: B batch, C classes.
"""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from callbacks.checkpoints import EpochCheckpoints, SafetensorsIO, epoch_files
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.losses.cosface import CosFace
from lightning_modules.losses.uniface import UniFace
from tests.lightning_modules.small_fits import fit, head_of, plain_loop, same_weights


class Scaled(ClassificationLoss):
    """NormFace as published: the scale is trained."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, cosine_BC, target_B):
        return F.cross_entropy(self.scale * cosine_BC, target_B, reduction="none")


class Counted(ClassificationLoss):
    """Logit adjustment (Menon et al., ICLR 2021): s cos + log of the share of a class."""

    def fit(self, samples):
        bound = Counted()
        bound.log_share_C = torch.from_numpy(samples.counts(5) / len(samples)).log().float()
        return bound

    def forward(self, cosine_BC, target_B):
        return F.cross_entropy(8 * cosine_BC + self.log_share_C, target_B, reduction="none")


class Growing(CosFace):
    """A margin from 0 to m over the epochs; it takes the fused path."""

    def __init__(self):
        super().__init__(16.0, 0.0)
        self.heard = []

    def epoch_starts(self, epoch, max_epochs):
        self.heard.append((epoch, max_epochs))
        self.margin = 0.35 * epoch / (max_epochs - 1)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("kind", [Scaled, Counted, Growing, partial(UniFace, 8.0), partial(UniFace, 8.0, bias=1.0)])
def test_a_loss_of_any_kind_trains_as_a_plain_loop_does(data, kind, at_once):
    samples = TrainingSamples(data.embeddings_ND, data.train_split)
    loss, other, head = kind().fit(samples), kind().fit(samples), head_of()
    plain_loop(data, head, other)
    network, _ = fit(data, loss, at_once=at_once)
    same_weights(network.head, head, rtol=1e-4, atol=1e-5)
    for found, expected in zip(loss.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    if kind is Growing:
        assert loss.heard == other.heard == [(0, 3), (1, 3), (2, 3)] and loss.margin == 0.35
    if kind is Counted:
        assert loss.log_share_C.unique().numel() > 1


def test_one_step_of_sgd_moves_the_bias_of_uniface_by_its_slope_in_closed_form(data):
    """Parameter b / s, d/db: mean of sigmoid(b - s (cos_y - m)) - weight * sum over j != y of sigmoid(s cos_j - b)."""
    data.batch_size = len(data.train_split)
    head, scale, margin, weight, b = head_of(), 8.0, 0.3, 0.5, math.log(10 * 5)
    (unit_BD, target_B, *_) = next(iter(data.train_dataloader()))
    cosine_BC = head(unit_BD).detach().double()
    slopes = []
    for cosines, target in zip(cosine_BC.tolist(), target_B.tolist(), strict=True):
        sigmoid = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
        slope = sigmoid(b - scale * (cosines[target] - margin))
        slopes.append(slope - weight * sum(sigmoid(scale * c - b) for j, c in enumerate(cosines) if j != target))
    expected = -0.1 * scale * sum(slopes) / len(slopes)
    sgd = partial(torch.optim.SGD, lr=0.1)
    loss, still = UniFace(scale, margin, weight), UniFace(scale, margin, weight, learn_bias=False)
    network, _ = fit(data, loss, sgd, epochs=1)
    assert loss.bias.item() == pytest.approx(expected, rel=1e-5) and abs(expected) > 0.01
    fit(data, still, sgd, epochs=1)
    assert still.bias.item() == 0 and torch.equal(network.state_dict()["loss.bias"], loss.bias.detach())


@pytest.mark.parametrize("kind", [Scaled, UniFace])
def test_parameters_of_a_loss_are_kept_with_the_weights_and_survive_a_resume(data, tmp_path, kind):
    more = {"plugins": [SafetensorsIO("key")], "enable_checkpointing": True}
    whole, _ = fit(data, kind(), callbacks=[EpochCheckpoints(tmp_path / "job")], **more)
    start = {name: value.item() for name, value in kind().named_parameters()}
    for name, value in whole.loss.named_parameters():
        assert abs(value.item() - start[name]) > 0.01 and torch.equal(whole.state_dict()[f"loss.{name}"], value)
    file = epoch_files(tmp_path / "job")[1]
    resumed, _ = fit(data, kind(), callbacks=[EpochCheckpoints(tmp_path / "job")], resume=file, **more)
    same_weights(resumed, whole, rtol=0, atol=0)
