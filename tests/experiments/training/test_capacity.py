# SPDX-License-Identifier: MIT
"""The estimate grows with the network, is near the measured peak, and a run that cannot fit is refused."""

import ctypes
import gc
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.epoch_clock import EpochClock, kernel_bytes, peak_memory_mb, reset_peak_memory
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from experiments.command_line.trainer_arguments import defaults
from experiments.comparison.coordinator import Cell
from experiments.training import capacity
from experiments.training.job import Job, Recipe, TrainingByEntry

MIB = 1 << 20
TRAINER = {"batch_size": 256, "max_logits_mb": 1024}


@given(
    classes=st.integers(2, 10**6), dim=st.integers(2, 2048), samples=st.integers(1, 10**6),
    batch=st.sampled_from([32, 1024, 4096]), mb=st.sampled_from([64, 1024, 1 << 20]),
)  # fmt: skip
def test_more_classes_dimensions_samples_and_moments_never_need_less(classes, dim, samples, batch, mb):
    settings = {"batch_size": batch, "max_logits_mb": mb}
    needed = capacity.estimate([classes], [samples], dim, settings, 1)
    # Training holds weight, gradient and two moments at least, and writes the weights.
    assert needed.device_per_job >= 4 * (classes * dim * 4) and needed.disk >= classes * dim * 4
    assert needed.device_per_job < needed.memory_per_job < needed.memory
    larger = (
        capacity.estimate([2 * classes], [samples], dim, settings, 1),
        capacity.estimate([classes], [samples], 2 * dim, settings, 1),
        capacity.estimate([classes], [2 * samples], dim, settings, 1),
        capacity.estimate([classes], [samples], dim, settings, 1, moments=3),
    )
    for other in larger:
        assert other.memory_per_job >= needed.memory_per_job and other.disk >= needed.disk
    assert larger[0].memory_per_job > needed.memory_per_job and larger[0].disk > needed.disk


def test_a_large_batch_is_the_reason_only_if_its_outputs_are_most_of_the_memory():
    unbounded = {"max_logits_mb": 1 << 20}
    usual, large = (capacity.estimate([10**5], [1], 8, {"batch_size": b, **unbounded}, 1) for b in (1024, 4096))
    assert large.memory_per_job > 2 * usual.memory_per_job - capacity.WORKING_BYTES
    assert large.large_batch and not usual.large_batch


def test_a_bound_on_outputs_bounds_what_a_step_and_a_validation_take():
    """With a million classes and a bound of 1 GiB, all but the matrices that training holds stays below 4 GiB."""
    classes, dim = 10**6, 512
    bounded, free = (
        capacity.estimate([classes], [1], dim, {"batch_size": 1024, "max_logits_mb": mb}, 1) for mb in (1024, 1 << 20)
    )
    held = (2 + 2 + 1) * 4 * classes * dim  # weight, gradient, moments of Adam, unit rows
    assert held < bounded.device_per_job < held + (4 << 30) < free.device_per_job


def test_two_workers_need_twice_as_much():
    two = capacity.estimate([100, 100], [1, 1], 8, TRAINER, 2)
    assert two.memory == 2 * capacity.estimate([100, 100], [1, 1], 8, TRAINER, 1).memory
    assert capacity.estimate([100], [1], 8, TRAINER, 8).memory == two.memory // 2  # one job keeps one worker busy


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


def test_sub_networks_that_share_a_gpu_must_fit_it_together(tmp_path, monkeypatch):
    needed = capacity.estimate([4096] * 20, [1000] * 20, 512, TRAINER, 16, on_one_gpu=8)
    alone = capacity.estimate([4096] * 20, [1000] * 20, 512, TRAINER, 16)
    assert replace(needed, on_one_gpu=1) == alone
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * alone.device_per_job, 1 << 60))
    capacity.check_fits(needed, tmp_path, on_gpu=True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 * alone.device_per_job - 1, 1 << 60))
    with pytest.raises(InputError, match="of free GPU memory.*fewer workers"):
        capacity.check_fits(needed, tmp_path, on_gpu=True)
    capacity.check_fits(alone, tmp_path, on_gpu=True)


@pytest.mark.parametrize(("launcher", "share"), [("per_gpu=8", 2), ("per_gpu=1", 1)])
def test_the_coordinator_counts_who_shares_a_gpu(coordinate, monkeypatch, launcher, share):
    settings = ("scenarios=[clustered_nearest]", "seeds=1", "trainer.accelerator=auto", "launcher=processes")
    with coordinate(*settings, f"launcher.{launcher}") as (coordinator, scenarios):
        seen = []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(capacity, "moments_of", lambda make: 2)  # a step of it would look for the GPU
        monkeypatch.setattr(
            capacity, "check_fits", lambda needed, run_folder, on_gpu, held: seen.append((needed, on_gpu))
        )
        monkeypatch.setattr(coordinator.launcher, "run", lambda jobs, watcher, train: {})
        coordinator.train_missing([(Cell(16, 2, 0), scenarios["clustered_nearest"])])
    ((needed, on_gpu),) = seen
    assert on_gpu and needed.on_one_gpu == share


def test_ranks_share_the_matrices_of_a_step_and_each_machine_holds_its_own():
    settings = {**TRAINER, "devices": 4}
    whole = capacity.estimate([40_960], [1000], 512, TRAINER, 1)
    copies = capacity.estimate([40_960], [1000], 512, {**settings, "strategy": "ddp"}, 1)
    shared = capacity.estimate([40_960], [1000], 512, {**settings, "strategy": "model_parallel"}, 1)
    assert copies.device_per_job == whole.device_per_job
    assert whole.device_per_job / 4 < shared.device_per_job < whole.device_per_job
    assert (copies.memory, copies.disk) == (4 * whole.memory, whole.disk)
    two = capacity.estimate([40_960], [1000], 512, {**settings, "strategy": "ddp"}, 1, nodes=2)
    assert two.memory == 2 * whole.memory


def test_the_last_checkpoints_of_what_can_grow_stay_on_the_disk():
    none, one, two = (capacity.estimate([10, 30, 20], [1] * 3, 8, TRAINER, 1, grow=grow).disk for grow in range(3))
    assert none < one < two and two - one < one - none  # the largest first


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
        capacity.check_fits(needed, tmp_path, on_gpu=False)
    capacity.check_fits(capacity.Need(1, 1, 1, 1, 1), tmp_path, on_gpu=False)


def test_what_this_process_holds_already_is_not_asked_for_twice(tmp_path):
    block = torch.ones(50 << 18)  # 50 MiB
    assert block.nbytes < kernel_bytes("RssAnon") < capacity.free_memory() + (64 << 30)
    needed = capacity.Need(1, 1, capacity.free_memory() + (4 << 30), 1, 1)
    with pytest.raises(InputError, match="of free memory"):
        capacity.check_fits(needed, tmp_path, on_gpu=False)
    capacity.check_fits(needed, tmp_path, on_gpu=False, held=8 << 30)


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
    TrainingByEntry()(job)
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
        recipe, "key", "title", {"_target_": "experiments.runs.tracking.NoTracking"}, {},
    )  # fmt: skip
    needed = capacity.estimate([classes], [len(data)], dim, trainer, 1)
    assert needed.memory_per_job / MIB == pytest.approx(in_a_process(lambda: growth_mb(job)), rel=0.2)
