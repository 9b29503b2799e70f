# SPDX-License-Identifier: MIT
"""The capacity check adds up by hand, is near what training takes, and refuses what cannot fit."""

import ctypes
import gc
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks.epoch_clock import EpochClock, peak_memory_mb, reset_peak_memory
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from experiments.coordination import capacity, training
from experiments.coordination.coordinator import Cell
from experiments.coordination.job import Job, Recipe
from experiments.training.arguments import defaults

MIB = 1 << 20
TRAINER = {"batch_size": 256, "max_logits_mb": 1024}


def test_bytes_of_a_head_by_hand():
    needed = capacity.need([2048], [1000], 512, TRAINER, at_once=1)
    on_device = (2 + 2 + 1) * 4  # matrices of 2048 x 512, 4 MiB each: weight, gradient, moments of Adam, unit rows
    step = 4 + 2 + 4  # rows times the scale, 256 x 2048 outputs, a block of the gradient
    outputs = 3 * 8  # 1024 x 2048 of validation
    data = int(1.3 * 1000 * 512 * 4)
    assert needed.device_per_job == (on_device + step + outputs) * MIB + data
    assert needed.memory_per_job == needed.device_per_job + (4 + 85) * MIB
    assert needed.memory == needed.memory_per_job + capacity.PROCESS_BYTES
    assert needed.disk == needed.disk_per_job == 4 * MIB + 3 * 3 * 4 * MIB


def test_large_batches_count_and_more_workers_need_more():
    unbounded = {"max_logits_mb": 1 << 20}
    usual, large = (capacity.need([10**5], [1], 8, {"batch_size": b, **unbounded}, 1) for b in (1024, 4096))
    assert large.memory_per_job - usual.memory_per_job == (1 + 3) * 4 * (4096 - 1024) * 10**5
    assert large.large_batch and not usual.large_batch


def test_a_bound_on_outputs_bounds_what_a_step_and_a_validation_take():
    """Above it a step holds weight, gradient and moments, and of everything else a chunk of classes."""
    classes, dim = 10**6, 512
    bounded, free = (
        capacity.need([classes], [1], dim, {"batch_size": 1024, "max_logits_mb": mb}, 1) for mb in (1024, 1 << 20)
    )
    matrix, chunk = 4 * classes * dim, 1 << 30
    held = (2 + 2 + 1) * matrix
    assert held < bounded.device_per_job - 1 < held + chunk * (1 + 0.5 + 0.0625 + 1.5) * 1.01
    assert free.device_per_job > bounded.device_per_job + 3 * (4 * 1024 * classes - chunk // 2)
    four = 4 * matrix
    assert bounded.memory < four + 12 * 10**9 + capacity.WORKING_BYTES  # besides four copies of the weight: 12 GB


def test_two_workers_need_twice_as_much():
    two = capacity.need([100, 100], [1, 1], 8, TRAINER, 2)
    assert two.memory == 2 * capacity.need([100, 100], [1, 1], 8, TRAINER, 1).memory
    assert capacity.need([100], [1], 8, TRAINER, 8).memory == two.memory // 2  # one job keeps one worker busy


@pytest.mark.parametrize(
    ("make", "moments"),
    [
        (partial(torch.optim.Adam, lr=0.1), 2),
        (partial(torch.optim.Adam, lr=0.1, amsgrad=True), 3),
        (partial(torch.optim.Adagrad, lr=0.1), 1),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 1),
        (partial(torch.optim.SGD, lr=0.1), 0),
    ],
)
def test_an_optimiser_is_asked_for_what_it_keeps(make, moments):
    assert capacity.moments_of(make) == moments
    assert capacity.moments_of(lambda groups: make(groups[0]["params"])) == moments  # as a head's groups come
    fewer, more = (capacity.need([500], [1], 8, TRAINER, 1, moments=m) for m in (moments, moments + 1))
    assert more.device_per_job - fewer.device_per_job == 500 * 8 * 4


def test_sub_networks_that_share_a_gpu_must_fit_it_together(tmp_path, monkeypatch):
    needed = capacity.need([4096] * 20, [1000] * 20, 512, TRAINER, 16, on_one_gpu=8)
    alone = capacity.need([4096] * 20, [1000] * 20, 512, TRAINER, 16)
    assert replace(needed, on_one_gpu=1) == alone
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * alone.device_per_job, 1 << 60))
    capacity.check(needed, tmp_path, on_gpu=True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * alone.device_per_job - 1, 1 << 60))
    with pytest.raises(InputError, match="of free GPU memory.*fewer workers"):
        capacity.check(needed, tmp_path, on_gpu=True)
    capacity.check(alone, tmp_path, on_gpu=True)


@pytest.mark.parametrize(("launcher", "share"), [("per_gpu=8", 2), ("per_gpu=1", 1)])
def test_the_coordinator_counts_who_shares_a_gpu(coordinate, monkeypatch, launcher, share):
    settings = ("scenarios=[clustered_nearest]", "seeds=1", "trainer.accelerator=auto", "launcher=processes")
    with coordinate(*settings, f"launcher.{launcher}") as (coordinator, scenarios):
        seen = []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(capacity, "moments_of", lambda make: 2)  # a step of it would look for the GPU
        monkeypatch.setattr(capacity, "check", lambda needed, run_folder, on_gpu, held: seen.append((needed, on_gpu)))
        monkeypatch.setattr(coordinator.launcher, "run", lambda jobs, progress: {})
        coordinator.train([(Cell(16, 2, 0), scenarios["clustered_nearest"])])
    ((needed, on_gpu),) = seen
    assert on_gpu and needed.on_one_gpu == share


def test_ranks_share_the_matrices_of_a_step_and_each_machine_holds_its_own():
    settings = {**TRAINER, "devices": 4}
    whole = capacity.need([4096], [1000], 512, TRAINER, 1)
    copies = capacity.need([4096], [1000], 512, {**settings, "strategy": "ddp"}, 1)
    shared = capacity.need([4096], [1000], 512, {**settings, "strategy": "model_parallel"}, 1)
    data, matrix = 1000 * 512 * 4, 8 * MIB
    assert copies.device_per_job == whole.device_per_job
    data = int(1.3 * data)
    assert shared.device_per_job == (whole.device_per_job - data) // 4 + data + 2 * matrix
    assert (copies.memory, copies.disk) == (4 * whole.memory, whole.disk)
    two = capacity.need([4096], [1000], 512, {**settings, "strategy": "ddp"}, 1, nodes=2)
    assert two.memory == 2 * whole.memory


def test_the_last_checkpoints_of_what_can_grow_stay_on_the_disk():
    """Weight and both moments of each of the two largest, beside the weights of all three."""
    usual, more = (capacity.need([10, 30, 20], [1] * 3, 8, TRAINER, 1, grow=grow) for grow in (0, 2))
    assert more.disk - usual.disk == 3 * (30 + 20) * 8 * 4 and more.disk_per_job == usual.disk_per_job


def test_nothing_to_train_needs_nothing():
    assert capacity.need([], [], 8, TRAINER, 2) == capacity.Need(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (capacity.Need(1, 1, 1 << 60, 1, 1), "n_subnets.*moments"),
        (capacity.Need(1, 1, 1 << 60, 1, 1, large_batch=True), "batch_size.*n_subnets"),
        (capacity.Need(1, 1, 1, 1, 1 << 60), "runs_dir"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_cure(tmp_path, needed, words):
    with pytest.raises(InputError, match=words):
        capacity.check(needed, tmp_path, on_gpu=False)
    capacity.check(capacity.Need(1, 1, 1, 1, 1), tmp_path, on_gpu=False)


def test_what_this_process_holds_already_is_not_asked_for_twice(tmp_path):
    block = torch.ones(50 << 18)  # 50 MiB
    assert block.nbytes < capacity.held_memory() < capacity.free_memory() + (64 << 30)
    needed = capacity.Need(1, 1, capacity.free_memory() + (4 << 30), 1, 1)
    with pytest.raises(InputError, match="of free memory"):
        capacity.check(needed, tmp_path, on_gpu=False)
    capacity.check(needed, tmp_path, on_gpu=False, held=8 << 30)


def in_a_process(work) -> float:
    """What `work` returns; in a process of its own, whose memory leaves nothing behind for others to use again."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as stream:
            said = stream.read()
        os.waitpid(child, 0)
        return float(said)
    try:
        os.write(writing, str(work()).encode())
    finally:
        os._exit(0)


def growth_mb(job: Job) -> float:
    """The peak of what training adds to this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed would be used again and not count as growth
    reset_peak_memory()
    before = peak_memory_mb()
    EpochClock.on_train_epoch_start = lambda *_: None  # it would reset the peak at every epoch
    EpochClock.on_train_batch_end = lambda *_: None
    training.train(job)
    return peak_memory_mb() - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("classes", "dim"), [(3000, 512), (6000, 256)])
def test_the_estimate_is_near_what_training_takes(tmp_path, people, classes, dim):
    made = {"n_identities": classes, "dim": dim, "samples": (5, 5)}
    in_a_process(lambda: len(EmbeddingSet.write(tmp_path / "data", *people(**made))))
    data = EmbeddingSet.open(tmp_path / "data", check_values=False)
    Partition(torch.zeros(classes, dtype=torch.int32).numpy(), 1).save(tmp_path / "partition")
    trainer = {**defaults(), "max_epochs": 2, "batch_size": 512, "accelerator": "cpu", "threads": 1}
    recipe = Recipe(
        {"_target_": "lightning_modules.losses.arcface.ArcFace"},
        {"_target_": "lightning_modules.initialisers.RandomInit"},
        {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01, "fused": True},
        trainer,
        0,
    )
    job = Job(
        "run", str(tmp_path), str(data.path), {"n_identities": classes, "seed": 0}, str(tmp_path / "partition"), 0,
        recipe, "key", "title", {"_target_": "experiments.coordination.tracking.NoTracking"}, {},
    )  # fmt: skip
    needed = capacity.need([classes], [len(data)], dim, trainer, 1)
    assert needed.memory_per_job / MIB == pytest.approx(in_a_process(lambda: growth_mb(job)), rel=0.2)
