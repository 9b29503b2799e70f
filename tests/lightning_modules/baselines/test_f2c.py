# SPDX-License-Identifier: MIT
"""The class pool against a list that is kept by hand; the losses against their definition."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.cluster_datamodule import Batch
from lightning_modules.baselines.base import unit_rows
from lightning_modules.baselines.f2c import F2C, ClassPool, F2CNetwork
from lightning_modules.losses.normface import NormFace


def feature(value):
    return F.normalize(torch.tensor([[1.0, value]]))


def test_the_class_seen_longest_ago_makes_room():
    pool = ClassPool(2, 2)
    for identity in (7, 8, 7, 9):  # 8 was seen longest ago
        pool.put([identity], feature(identity))
    assert pool.places([7, 8, 9]).tolist() == [0, -1, 1]
    first, second = pool.sides()
    torch.testing.assert_close(first, torch.cat([feature(7), feature(9)]))
    torch.testing.assert_close(second, first)  # 9 has one feature so far; 7's second equals its first


def test_the_two_places_of_a_class_are_written_in_turn():
    pool = ClassPool(3, 2)
    for value in (1.0, 2.0, 3.0):
        pool.put([5], feature(value))
    first, second = pool.sides()
    torch.testing.assert_close(first, feature(3.0))
    torch.testing.assert_close(second, feature(2.0))


def test_a_class_that_comes_back_starts_anew():
    pool = ClassPool(1, 2)
    for identity, value in ((1, 1.0), (1, 2.0), (2, 3.0), (1, 4.0)):
        pool.put([identity], feature(value))
    for side in pool.sides():
        torch.testing.assert_close(side, feature(4.0))


def network(slots=4, loss=None):
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(20, 6, generator=generator))
    labels = torch.arange(20) // 2
    adam = lambda parameters: torch.optim.Adam(parameters, lr=1e-2)  # noqa: E731
    return F2CNetwork(rows, labels, slots, loss or NormFace(16.0), adam, 0.9, "highest", generator), rows, labels


def test_losses_inside_and_outside_the_pool():
    one, rows, _ = network()
    one.pool.put([0, 1, 2, 3], rows[[0, 2, 4, 6]])
    one.pool.put([1], rows[[3]])
    z, place = rows[[1, 10]], one.pool.places([0, 5])
    found = one._against_pool(z, place)
    first = rows[[0, 2, 4, 6]]
    second = rows[[0, 3, 4, 6]]
    inside = [F.cross_entropy(16 * z[:1] @ side.T, torch.tensor([0])) for side in (first, second)]
    # 4 slots: the 3 highest cosines
    outside = [(z[1] @ side.T).sort(descending=True).values[:3].clamp_min(0).mean() for side in (first, second)]
    torch.testing.assert_close(found, torch.stack([sum(inside), sum(outside)]) / 2)


def test_pairs_are_two_images_of_one_identity():
    one, rows, labels = network()
    for _ in range(5):
        identity, first, second = one._pairs(6)
        assert len(identity.unique()) == 6
        for who, a, b in zip(identity.tolist(), first, second, strict=True):
            places = {int((rows == x).all(1).nonzero()[0, 0]) for x in (a, b)}
            assert places == set((labels == who).nonzero()[:, 0].tolist())


def step(one, rows, labels):
    """One step of Lightning on one batch, at the learning rate of `network`."""
    loader = DataLoader([Batch(rows, labels, torch.ones(20))], batch_size=None)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(one, loader)
    return float(trainer.callback_metrics["train/loss"])


def test_the_average_follows_the_projection():
    one, rows, labels = network()
    start = one.average.weight_CD.clone()
    step(one, rows, labels)
    torch.testing.assert_close(one.average.weight_CD, 0.9 * start + 0.1 * one.head.weight_CD.detach())
    assert float((one.average.weight_CD - start).abs().max()) > 5e-4  # a first step of Adam moves by lr = 0.01


def test_before_any_training_it_is_the_nearest_class_mean(task):
    made = task(epochs=0)
    predictor = F2C().fit(made)
    rows, _ = unit_rows(made.val)
    expected = (rows @ torch.from_numpy(made.class_means_KD).T).max(1)
    found = predictor.decide(rows)
    assert torch.equal(found.identity_B, expected.indices)
    torch.testing.assert_close(found.score_B, expected.values)


@pytest.mark.parametrize("slots", [3, 10])
def test_a_step_gives_the_projection_a_gradient_and_the_average_none(slots):
    one, rows, labels = network(slots)
    loss = step(one, rows, labels)
    assert math.isfinite(loss) and float(one.head.weight_CD.grad.abs().sum()) > 0
    assert one.average.weight_CD.grad is None and len(one.pool.slot_of) == min(slots, 10)
