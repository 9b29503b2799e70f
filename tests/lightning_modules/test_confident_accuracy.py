# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from lightning_modules.decisions.base import Decided
from lightning_modules.metrics.confident_accuracy import ConfidentAccuracy


def accuracy_of(percent, score, right):
    metric = ConfidentAccuracy(percent)
    truth = torch.zeros(len(score), dtype=torch.long)
    metric.update(Decided(1 - torch.tensor(right).long(), torch.tensor(score), truth), truth)
    return metric.compute()


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 60), (80, 75), (61, 75), (60, 200 / 3), (40, 50), (20, 0), (1, 0)]
)
def test_the_surest_are_counted_and_their_number_is_rounded_up(percent, expected):
    # From the surest down: wrong, right, right, right, wrong.
    found = accuracy_of(percent, [0.1, 0.2, 0.3, 0.4, 0.9], [False, True, True, True, False])
    assert found == pytest.approx(expected)


def test_probes_with_the_score_of_the_last_one_count_too():
    assert accuracy_of(50, [0.5, 0.5, 0.5, 0.9], [True, False, False, True]) == pytest.approx(50)


def test_against_a_plain_loop():
    random = np.random.default_rng(0)
    score, right = random.random(997), random.random(997) < 0.7
    order = sorted(range(997), key=lambda probe: -score[probe])[:898]  # 90 % of 997 is 897.3
    expected = 100 * sum(bool(right[probe]) for probe in order) / 898
    assert accuracy_of(90, score.tolist(), right.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("percent", [0, 101, 0.9, "all"])
def test_a_coverage_out_of_range_is_refused(percent):
    with pytest.raises(InputError, match="1 to 100"):
        ConfidentAccuracy(percent)
