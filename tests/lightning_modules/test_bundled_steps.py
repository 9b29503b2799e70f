# SPDX-License-Identifier: MIT
"""Several steps per call of Lightning against one: the same operations on the same shapes, so the same bits."""

import pytest
import torch

from callbacks.epoch_clock import EpochClock
from lightning_modules import schedulers
from lightning_modules.losses.uniface import UniFace
from tests.lightning_modules.small_fits import fit


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "warmup_cosine"])
def test_how_many_steps_lightning_hands_over_at_once_does_not_matter(data, schedule):
    """Weights, logged values and the number of optimiser steps."""
    data.batch_size, results = 3, []
    per_epoch = -(-len(data.train_split) // 3)
    assert per_epoch > 5 and per_epoch % 5, "the last bundle of an epoch is smaller"
    for at_once in (1, 2, 5, 100):
        data.steps_per_call = 1
        scheduler = getattr(schedulers, schedule)
        network, records = fit(data, UniFace(8.0), scheduler=scheduler, at_once=at_once, callbacks=[EpochClock()])
        seen = [one["time/samples_per_second"] * one["time/epoch_seconds"] for one in records]
        assert seen == pytest.approx([len(data.train_split)] * 3)
        assert network.trainer.global_step == 3 * per_epoch
        timeless = [{k: v for k, v in one.items() if not k.startswith(("time/", "memory/"))} for one in records]
        results.append((network.state_dict(), timeless))
    for state, said in results[1:]:
        assert said == results[0][1]
        assert all(torch.equal(value, results[0][0][name]) for name, value in state.items())


def test_a_schedule_reaches_its_end_in_bundles_too(data):
    """The rate logged is that of the last step; `linear` leaves it one step above 0."""
    steps = 2 * -(-len(data.train_split) // 8)
    for at_once in (1, 3):
        _, records = fit(data, epochs=2, scheduler=schedulers.linear, at_once=at_once)
        assert [one["learning_rate"] for one in records] == pytest.approx([0.01 * (0.5 + 1 / steps), 0.01 / steps])
        data.steps_per_call = 1
