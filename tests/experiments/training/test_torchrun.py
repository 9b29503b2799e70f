# SPDX-License-Identifier: MIT
"""launcher=torchrun, here on two CPU processes (gloo), against one process."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from hydra.errors import InstantiationException

from datamodules.errors import InputError
from experiments.training.job import TrainingByEntry
from experiments.training.launchers import ranks
from experiments.training.launchers.in_process import InProcess
from experiments.training.launchers.processes import Processes
from experiments.training.launchers.ranks import Ranks
from experiments.training.progress import Watcher

ROOT = Path(__file__).resolve().parents[3]
BAD = {"_target_": "lightning_modules.losses.arcface.ArcFace", "margin": 9.0}


@pytest.fixture
def store(monkeypatch):
    """One of two ranks, and the store that it shares with the other."""
    shared = dist.HashStore()
    monkeypatch.setattr(ranks, "_store", lambda: shared)
    monkeypatch.setattr(ranks, "_numbers", itertools.count())
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "test")):
        monkeypatch.setenv(name, value)
    return shared


def test_a_rank_trains_what_rank_0_names_until_it_ends_and_again_in_the_next_cell(store, make_jobs):
    jobs = make_jobs("alone", max_epochs=1)
    for number, text in enumerate([jobs[0].to_json(), "", jobs[1].to_json(), ""]):
        store.set(f"job/{number}", text)
    assert Ranks().serve()
    assert [job.record() is not None for job in jobs] == [True, False]
    assert Ranks().serve()
    assert [job.record() is not None for job in jobs] == [True, True]


def test_a_job_that_fails_on_every_rank_is_reported_and_the_next_is_trained(store, make_jobs):
    good = make_jobs("both", max_epochs=1)[0]
    bad = replace(good, key="bad", recipe=replace(good.recipe, loss=BAD, trainer={**good.recipe.trainer, "devices": 2}))
    store.add("failed/0", 1)  # the other rank
    failed = Ranks().run([bad, good], Watcher())
    assert list(failed) == [bad.identifier] and "margin" in failed[bad.identifier]
    assert good.record() is not None and json.loads(store.get("job/1"))["key"] == good.key


def test_a_rank_that_fails_alone_ends_the_command_with_its_reason(store, make_jobs, monkeypatch):
    monkeypatch.setattr(ranks, "TOGETHER_SECONDS", 0.1)
    job = make_jobs("one", devices=2, loss=BAD)[0]
    with pytest.raises(InstantiationException, match="margin"):
        Ranks().run([job], Watcher())


@pytest.mark.parametrize("asked", [1, 2])
def test_devices_are_the_processes_of_torchrun(store, asked):
    assert Ranks().devices(asked) == 2


@pytest.mark.parametrize(("asked", "said"), [(4, "trainer.devices = 4 with 2"), (None, "one device each")])
def test_other_devices_are_refused(store, asked, said):
    with pytest.raises(InputError, match=said):
        Ranks().devices(asked)


def test_without_torchrun_the_launcher_says_how(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(InputError, match="a command that torchrun started"):
        Ranks().devices(1)


def test_another_launcher_refuses_to_run_several_times_at_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="launcher=torchrun"):
        InProcess().devices(1)


def unit_rows(file):
    return torch.nn.functional.normalize(safetensors.torch.load_file(file)["head.weight_CD"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "scenarios"),
    [("auto", "no_distribution,clustered_nearest,dense_codes"), ("model_parallel", "partial_fc,clustered_nearest")],
)
def test_two_ranks_train_what_one_process_trains(tmp_path, strategy, scenarios):
    def compare(name, start, *more):
        command = [
            "-m", "experiments.compare", "data=synthetic", "n_identities=[100]", "n_subnets=2", "seeds=1",
            "logger=none", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.matmul=highest",
            f"scenarios=[{scenarios}]", f"runs_dir={tmp_path}", f"name={name}",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *start, *command, *more], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / name / "subnetworks"

    alone = compare("alone", [])
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    together = compare("together", start, "launcher=torchrun", f"trainer.strategy={strategy}")
    files = sorted(alone.glob("*/?????.safetensors"))
    assert len(files) == 3
    for file in files:
        other = together / file.relative_to(alone)
        one, two = (unit_rows(path) for path in (file, other))
        # Two ranks add in another order, and Adam divides a gradient near zero by its own size. AdaFace with the
        # statistics of one rank differed by 1e-4.
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_of_sharded_classes_is_one_of_the_whole_head(make_jobs):
    """Begun by two ranks, stopped, and gone on with by one process."""
    alone = make_jobs("alone", matmul="highest", max_epochs=4)[0]
    InProcess().run([alone], Watcher())
    job = make_jobs("stopped", matmul="highest", max_epochs=4, devices=2, strategy="model_parallel")[0]

    class Stop(Watcher):
        def epoch(self, job, done, of, values):
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Processes(workers=1, threads=1).run([job], Stop())
    assert job.record() is None
    seen = []
    TrainingByEntry()(replace(job, recipe=alone.recipe), lambda done, of, values: seen.append(done))
    assert seen[0] > 1
    one, two = (unit_rows(each.stem.with_suffix(".safetensors")) for each in (job, alone))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
