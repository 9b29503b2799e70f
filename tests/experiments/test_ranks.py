# SPDX-License-Identifier: MIT
"""Ranks that torchrun or SLURM started, here two CPU processes (gloo), against one process."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from datamodules.errors import InputError
from experiments.coordination import training
from experiments.coordination.launchers.in_process import InProcess
from experiments.coordination.launchers.ranks import Place, Ranks, _Group, place
from experiments.coordination.progress import Silent
from tests.experiments.offline_runs import offline_runs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("ranks_command.py")
WANDB = {"_target_": "experiments.coordination.tracking.WandbTracking", "project": "tests"}
SAMPLED = {"_target_": "lightning_modules.active_classes.SampledClasses", "sample_rate": 0.5}
BAD = {"_target_": "lightning_modules.losses.arcface.ArcFace", "margin": 9.0}


def rows(job):
    return safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["rows"]


def other_recipe(job, number, **changes):
    return replace(job, recipe=replace(job.recipe, **changes), key=f"key{number}", title=f"{job.title} {number}")


def environment(**more):
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))}
    return {**mine, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **more}


def result_of(folder, jobs, commands):
    (folder / "jobs.json").write_text(json.dumps([job.to_json() for job in jobs]))
    started = [
        subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command, env in commands(folder)
    ]
    ended = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), ended
    return json.loads((folder / "result.json").read_text())


def torchrun(devices):
    def commands(folder):
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        yield [sys.executable, "-m", *launch, SCRIPT, folder, "torchrun", str(devices)], environment()

    return commands


def srun(devices):
    """Two tasks on one node, with the variables that srun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def commands(folder):
        for task in "01":
            slurm = {
                "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "clusterface", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
                "SLURM_PROCID": task, "SLURM_LOCALID": task, "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
                "MASTER_PORT": port,
            }  # fmt: skip
            yield [sys.executable, SCRIPT, folder, "slurm", str(devices)], environment(**slurm)

    return commands


def test_ranks_under_torchrun_train_what_one_process_trains(make_jobs, tmp_path, monkeypatch):
    """Each rank takes jobs; a bad one costs no other; jobs of a second call find the same ranks."""

    def all_jobs(run):
        good = make_jobs(run, tracking=WANDB if run == "torchrun" else None)
        sampled = other_recipe(good[0], 1, active_classes=SAMPLED)
        return [good[0], other_recipe(good[0], 2, loss=BAD), sampled, good[1]]

    monkeypatch.setenv("WANDB_MODE", "offline")
    alone, jobs = all_jobs("alone"), all_jobs("torchrun")
    expected = InProcess().run([job for job in alone if job.recipe.loss != BAD], Silent())
    assert expected == {}
    stop_after(jobs[0], 3)  # and what an earlier run has left is gone on from
    result = result_of(tmp_path, jobs, torchrun(1))
    assert list(result["failed"]) == [jobs[1].identifier] and "margin" in result["failed"][jobs[1].identifier]
    for one, other in zip(alone, jobs, strict=True):
        if one.recipe.loss != BAD:
            assert torch.equal(rows(one), rows(other))
    assert not torch.equal(rows(jobs[0]), rows(jobs[2]))
    ends = [call[1] for call in result["told"] if call[0] == "ends"]
    assert sorted(ends) == sorted(job.title for job in jobs) and ends[-1] == jobs[-1].title
    assert ["epoch", jobs[-1].title, 6, 6] in result["told"]
    runs = offline_runs(tmp_path / "torchrun")
    assert [run["id"] for run in runs] == sorted(job.identifier for job in jobs if job.recipe.loss != BAD)
    assert all(run["epochs"] == list(range(6)) and run["group"] == "torchrun" for run in runs)
    log = (tmp_path / "torchrun" / "log.txt").read_text()
    assert "rank 1: " in log


@pytest.mark.parametrize("launch", [srun, torchrun])
def test_groups_of_ranks_train_with_ddp_and_with_sharded_classes(make_jobs, tmp_path, launch):
    def variants(run, ddp, sharded):
        good, strategies = make_jobs(run, matmul="highest", **ddp), make_jobs(run, matmul="highest", **sharded)
        return [
            good[0], other_recipe(strategies[0], 1), other_recipe(strategies[0], 2, active_classes=SAMPLED),
            other_recipe(strategies[1], 3, loss=BAD), strategies[1],
        ]  # fmt: skip

    alone = variants("alone", {}, {})
    jobs = variants("ranks", dict(devices=2, strategy="ddp"), dict(devices=2, strategy="model_parallel"))
    InProcess().run([job for job in alone if job.recipe.loss != BAD], Silent())
    stop_after(replace(jobs[1], recipe=alone[1].recipe), 3)  # begun by one process, gone on with by two
    result = result_of(tmp_path, jobs, launch(2))
    assert list(result["failed"]) == [jobs[3].identifier] and "margin" in result["failed"][jobs[3].identifier]
    for one, other, tolerance in zip(alone, jobs, (1e-6, 1e-5, 1e-5, None, 1e-5), strict=True):
        if tolerance is None:
            continue
        torch.testing.assert_close(rows(one), rows(other), rtol=0, atol=tolerance)
        history, whole = other.record()["history"], one.record()["history"]
        for name in ("train/loss", "val/loss", "val/accuracy_percent"):
            assert [epoch[name] for epoch in history] == pytest.approx([epoch[name] for epoch in whole], rel=1e-4)
    assert [call for call in result["told"] if call[1] == jobs[1].title and call[0] == "epoch"][0][2] == 3


@pytest.mark.slow
def test_a_checkpoint_of_sharded_classes_is_one_of_the_whole_head(make_jobs, tmp_path):
    """Begun by two ranks, stopped, and gone on with by one process."""
    from experiments.coordination.launchers.processes import Processes

    alone = make_jobs("alone", matmul="highest", max_epochs=4)[0]
    InProcess().run([alone], Silent())
    job = make_jobs("stopped", matmul="highest", max_epochs=4, devices=2, strategy="model_parallel")[0]

    class Stop(Silent):
        def epoch(self, title, done, of, values):
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Processes(workers=1, threads=1).run([job], Stop())
    assert job.record() is None
    seen = []
    training.train(replace(job, recipe=alone.recipe), lambda done, of, values: seen.append(done))
    assert seen[0] > 1
    torch.testing.assert_close(rows(job), rows(alone), rtol=0, atol=1e-5)


def test_without_the_variables_of_who_should_have_started_it_the_launcher_says_how(monkeypatch):
    place.cache_clear()
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("torchrun", "slurm"):
        with pytest.raises(InputError, match=name):
            Ranks(name).serve(1)


@pytest.mark.parametrize(("world", "local", "devices"), [(4, 2, 3), (6, 3, 2), (4, 4, 8)])
def test_groups_that_would_be_torn_over_nodes_are_refused(world, local, devices):
    with pytest.raises(InputError, match="trainer.devices"):
        _Group(Place(0, world, 0, local, "127.0.0.1", 1), devices)


def test_another_launcher_refuses_to_run_several_times_at_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="launcher=torchrun"):
        InProcess().serve(1)


def stop_after(job, epochs):
    def report(done, of, values):
        if done == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(job, report)
