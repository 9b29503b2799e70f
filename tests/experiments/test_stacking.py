# SPDX-License-Identifier: MIT
"""Sub-networks trained in a stack are those trained one by one; a stack can be stopped, resumed, and fail in part."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

from callbacks.epoch_checkpoint import epoch_files
from experiments.coordination import stacking
from experiments.coordination.job import Job, Stack
from experiments.coordination.launchers.in_process import InProcess
from experiments.coordination.launchers.processes import Processes

EPOCHS = 4
CLUSTER_OF = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]  # sizes 8, 5, 3: unequal batches in an epoch
CSV = {"_target_": "experiments.coordination.tracking.CSVTracking"}


class Heard:
    """Stands for `Progress`; remembers what it was told."""

    def __init__(self):
        self.ended, self.epochs = [], []

    def job_starts(self, title): ...

    def job_ends(self, title):
        self.ended.append(title)

    def epoch(self, title, done, of, values):
        self.epochs.append((title, done))


@pytest.fixture
def jobs(make_jobs):
    """`jobs(run_name, **trainer settings)`: one job per cluster of the toy set."""

    def make(run, **settings):
        settings = {"max_epochs": EPOCHS, "matmul": "highest", **settings}
        loss = {"_target_": "lightning_modules.losses.arcface.ArcFace", "scale": 16.0}
        return make_jobs(run, loss=loss, tracking=CSV, cluster_of=CLUSTER_OF, **settings)

    return make


def rows(job):
    return safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["rows"]


def train(jobs, launcher=None, heard=None):
    work = stacking.stacked(jobs)
    heard = stacking.WatchingStacks(heard or Heard(), work)
    return stacking.reasons_by_job(work, (launcher or InProcess()).run(work, heard))


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_stack_leaves_what_its_jobs_leave_one_by_one(jobs, schedule):
    alone, together, heard = jobs("alone", schedule=schedule), jobs("stack", stack=3, schedule=schedule), Heard()
    assert train(alone) == {} and train(together, heard=heard) == {}
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(rows(one), rows(other), rtol=0, atol=1e-5)
        records = one.record(), other.record()
        assert all(record["epochs"] == EPOCHS for record in records)
        for name in ("train/loss", "val/loss", "val/accuracy_percent", "learning_rate", "epoch"):
            expected, found = ([epoch[name] for epoch in record["history"]] for record in records)
            assert found == pytest.approx(expected, rel=1e-4), name
        assert set(records[0]["history"][-1]) == set(records[1]["history"][-1])
        logged = [
            pd.read_csv(next((Path(job.run_folder) / "csv").rglob(f"{job.cluster:05d}/metrics.csv"))).groupby("epoch")
            for job in (one, other)
        ]
        expected, found = (epochs["train/loss"].first() for epochs in logged)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4) and len(found) == EPOCHS
    assert sorted(heard.ended) == [job.title for job in together]
    assert sorted(heard.epochs) == [(job.title, done) for job in together for done in range(1, EPOCHS + 1)]


def test_jobs_are_stacked_by_recipe_and_size(jobs):
    one, two, three = jobs("run", stack=2)
    assert [getattr(unit, "jobs", unit) for unit in stacking.stacked([one, two, three])] == [(one, two), three]
    other = replace(two, key="other")
    assert stacking.stacked([one, other, three]) == [one, other, three]
    assert stacking.stacked(jobs("auto")) == jobs("auto"), "a CPU is filled by one sub-network"
    unit = Stack((one, two))
    assert Job.from_json(unit.to_json()) == unit and Job.from_json(one.to_json()) == one


def test_stopped_jobs_go_on_alone_or_in_any_stack(jobs):
    expected = jobs("undisturbed")
    train(expected)
    stopped = jobs("stopped", stack=3)

    def stop(done, of, values):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stacking.train(Stack(tuple(stopped)), stop)
    assert [sorted(epoch_files(job.stem)) for job in stopped] == [[1, 2]] * 3
    stacking.train(stopped[0])  # alone
    epoch_files(stopped[1].stem)[2].unlink()  # this one goes on from an earlier epoch than its neighbour
    stacking.train(Stack(tuple(stopped)))
    for one, other in zip(expected, stopped, strict=True):
        torch.testing.assert_close(rows(one), rows(other), rtol=0, atol=1e-5)
        assert [epoch["epoch"] for epoch in other.record()["history"]] == list(range(EPOCHS))


def test_a_sub_network_that_fails_does_not_stop_its_stack(jobs, monkeypatch):
    done = jobs("failing", stack=3)
    start = stacking.start

    def broken(job, enrolled):
        begin = start(job, enrolled)
        if job.cluster == 1:
            begin.rows_CD[0, 0] = float("nan")
        return begin

    monkeypatch.setattr(stacking, "start", broken)
    reasons = train(done)
    assert (
        list(reasons) == [done[1].identifier] and "cluster 1: got a training loss of nan" in reasons[done[1].identifier]
    )
    assert [job.record() is not None for job in done] == [True, False, True]
    monkeypatch.undo()
    assert train(done) == {} and done[1].record() is not None


def test_worker_processes_take_stacks(jobs):
    alone, together = jobs("alone"), jobs("workers", stack=2)
    train(alone)
    assert train(together, Processes(workers=1, threads=1)) == {}
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(rows(one), rows(other), rtol=0, atol=1e-5)
