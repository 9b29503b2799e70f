# SPDX-License-Identifier: MIT
"""W&B shows one run per sub-network in the group of its comparison: with any launcher, once, also after a resume."""

import csv
from pathlib import Path

import pytest

from experiments.training.launchers.in_process import InProcess
from experiments.training.launchers.processes import Processes
from tests.experiments.offline_runs import offline_runs

WANDB = {"_target_": "experiments.runs.tracking.WandbTracking", "project": "tests"}
CSV = {"_target_": "experiments.runs.tracking.CSVTracking"}
EPOCHS = 4


class Watcher:
    """Stands for `Progress`; stops the run in the epoch that it is told."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at

    def job_starts(self, job):
        """Nothing."""

    def job_ends(self, job, failure):
        """Nothing."""

    def epoch(self, job, done, of, values):
        """Stops, if this is the epoch."""
        if done == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def check(jobs):
    """One offline folder for each job, all epochs in it once."""
    runs = offline_runs(Path(jobs[0].run_folder))
    assert [run["id"] for run in runs] == sorted(job.identifier for job in jobs)
    assert {run["group"] for run in runs} == {jobs[0].run} and {run["type"] for run in runs} == {"subnetwork"}
    assert {run["name"] for run in runs} == {job.title for job in jobs}
    assert [run["epochs"] for run in runs] == [list(range(job.recipe.trainer["max_epochs"])) for job in jobs]


def launchers():
    yield pytest.param(InProcess, {}, id="in_process")
    yield pytest.param(lambda: Processes(workers=1, threads=1), {}, id="processes")
    ddp = {"devices": 2, "strategy": "ddp"}
    yield pytest.param(lambda: Processes(workers=1, threads=1), ddp, id="groups", marks=pytest.mark.slow)


@pytest.mark.parametrize(("launcher", "settings"), launchers())
def test_one_run_per_sub_network_also_after_a_stop_and_a_resume(make_jobs, launcher, settings):
    with pytest.raises(KeyboardInterrupt):
        InProcess().run(make_jobs("group", tracking=WANDB, max_epochs=EPOCHS), Watcher(stop_at=2))
    jobs = make_jobs("group", tracking=WANDB, max_epochs=EPOCHS, **settings)
    (begun,) = offline_runs(Path(jobs[0].run_folder))
    assert begun["id"] == jobs[0].identifier and begun["epochs"] == [0]
    assert launcher().run(jobs, Watcher()) == {}
    check(jobs)


@pytest.mark.slow
def test_one_run_per_sub_network_with_ray(make_jobs):
    pytest.importorskip("ray")
    from experiments.training.launchers.ray import Ray

    jobs = make_jobs("ray", tracking=WANDB, max_epochs=EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        InProcess().run(jobs[:1], Watcher(stop_at=2))
    assert Ray().run(jobs, Watcher()) == {}
    check(jobs)


def test_the_csv_of_a_resumed_sub_network_has_all_epochs(make_jobs):
    job = make_jobs("csv", tracking=CSV, max_epochs=EPOCHS)[0]
    with pytest.raises(KeyboardInterrupt):
        InProcess().run([job], Watcher(stop_at=3))
    InProcess().run([job], Watcher())
    (file,) = (Path(job.run_folder) / "csv").rglob("metrics.csv")
    with open(file) as stream:
        epochs = [int(row["epoch"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert epochs == list(range(EPOCHS))
