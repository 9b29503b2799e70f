# SPDX-License-Identifier: MIT
"""Learning rates against their closed form, and schedulers of torch that count epochs."""

import math
from functools import partial

import pytest
import torch

from lightning_modules import schedulers
from tests.lightning_modules.small_fits import fit


def factors(schedule, steps, **more):
    """Factors of the learning rates 1 and 10 at each step."""
    rates = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": rates[:1], "lr": 1.0}, {"params": rates[1:], "lr": 10.0}])
    scheduler, found = schedule(optimizer, total_steps=steps, **more), []
    for _ in range(steps):
        one, ten = (group["lr"] for group in optimizer.param_groups)
        assert ten == pytest.approx(10 * one)
        found.append(one)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    "schedule, more, first, middle, last",
    [
        (schedulers.constant, {}, 1, 1, 1),
        (schedulers.linear, {}, 1, 1 / 2, 1 / 100),
        (schedulers.cosine, {}, 1, 1 / 2, math.sin(math.pi / 200) ** 2),
        # 20 steps rise to 20 / 21; 80 fall, of which the middle of the fit is the 30th: (1 + cos(3 pi / 8)) / 2.
        (schedulers.warmup_cosine, {"warmup": 0.2}, 1 / 21, (1 + math.sqrt(2 - math.sqrt(2)) / 2) / 2,
         math.sin(math.pi / 160) ** 2),
        (schedulers.warmup_cosine, {"warmup": 0.0}, 1, 1 / 2, math.sin(math.pi / 200) ** 2),
    ],
)  # fmt: skip
def test_the_factor_at_the_first_the_middle_and_the_last_step(schedule, more, first, middle, last):
    found = factors(schedule, 100, **more)
    assert [found[0], found[50], found[99]] == pytest.approx([first, middle, last], rel=1e-9)


def test_warm_up_rises_evenly_to_the_whole_rate():
    found = factors(schedulers.warmup_cosine, 100, warmup=0.2)
    assert found[:21] == pytest.approx([(step + 1) / 21 for step in range(21)]) and max(found) == found[20]


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warm_up_that_is_no_share_is_refused(warmup):
    with pytest.raises(ValueError, match="expected a share"):
        factors(schedulers.warmup_cosine, 10, warmup=warmup)


def test_a_scheduler_of_torch_moves_after_each_epoch(data):
    step = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1)
    _, records = fit(data, epochs=5, scheduler=step)
    assert [one["learning_rate"] for one in records] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_reduce_on_plateau_looks_at_the_validation_loss(data):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=1, factor=0.5)
    optimizer = partial(torch.optim.Adam, lr=1e-12)  # the validation loss stays
    network, records = fit(data, epochs=6, optimizer=optimizer, scheduler=plateau)
    assert network.trainer.lr_scheduler_configs[0].monitor == "val/loss"
    # A bad epoch is one without a lower loss: epochs 1 and 2, then 3 and 4; the rate falls after the second.
    assert [one["learning_rate"] for one in records] == pytest.approx([1e-12] * 3 + [5e-13] * 2 + [2.5e-13], rel=1e-6)
    _, records = fit(data, epochs=4, scheduler=plateau)
    assert records[-1]["val/loss"] < records[0]["val/loss"] and records[-1]["learning_rate"] == pytest.approx(1e-2)
