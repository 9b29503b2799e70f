# SPDX-License-Identifier: MIT
"""The capacity check adds up by hand, and refuses what cannot fit."""

import pytest

from datamodules.errors import InputError
from experiments.coordination import capacity

MIB = 1 << 20
TRAINER = {"batch_size": 256, "max_logits_mb": 1024}


def test_bytes_of_a_head_by_hand():
    needed = capacity.need([2048], [1000], 512, 2, TRAINER, at_once=1)
    head = 6 * 4  # six float32 matrices of 2048 x 512, 4 MiB each
    outputs = 2 * 2 + 2 * 8  # 256 x 2048 twice, 1024 x 2048 twice
    data = 1000 * 512 * 2
    assert needed.memory_per_job == (head + outputs) * MIB + data
    assert needed.memory == needed.memory_per_job + capacity.PROCESS_BYTES
    assert needed.disk == 4 * MIB + 2 * 3 * 4 * MIB


def test_the_bound_on_the_outputs_counts_and_more_workers_need_more():
    free = capacity.need([100_000], [1], 8, 4, {**TRAINER, "batch_size": 4096}, 1)
    bound = capacity.need([100_000], [1], 8, 4, {"batch_size": 4096, "max_logits_mb": 64}, 1)
    assert free.memory_per_job - bound.memory_per_job == 2 * (1024 - 64) * MIB
    two = capacity.need([100, 100], [1, 1], 8, 4, TRAINER, 2)
    assert two.memory == 2 * capacity.need([100, 100], [1, 1], 8, 4, TRAINER, 1).memory
    assert capacity.need([100], [1], 8, 4, TRAINER, 8).memory == two.memory // 2  # one job keeps one worker busy


def test_nothing_to_train_needs_nothing():
    assert capacity.need([], [], 8, 4, TRAINER, 2) == capacity.Need(0, 0, 0)


@pytest.mark.parametrize(("needed", "words"), [((1, 1 << 60, 1), "n_subnets"), ((1, 1, 1 << 60), "runs_dir")])
def test_what_cannot_fit_is_refused_with_a_cure(tmp_path, needed, words):
    with pytest.raises(InputError, match=words):
        capacity.check(capacity.Need(*needed), tmp_path, on_gpu=False)
    capacity.check(capacity.Need(1, 1, 1), tmp_path, on_gpu=False)
