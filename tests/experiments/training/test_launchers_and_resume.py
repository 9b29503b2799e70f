# SPDX-License-Identifier: MIT
"""The weights of a sub-network depend on data, partition, recipe, seed and cluster; on nothing that happened."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from callbacks.checkpoints import SafetensorsIO, epoch_files
from datamodules.errors import InputError
from experiments.training.job import Job, TrainingByEntry
from experiments.training.launchers.in_process import InProcess
from experiments.training.launchers.processes import Processes

EPOCHS = 6


class Silent:
    """Stands for `Progress`; remembers what it was told."""

    def __init__(self):
        self.started, self.ended, self.epochs = [], [], []

    def job_starts(self, job):
        self.started.append(job.title)

    def job_ends(self, job, failure):
        self.ended.append(job.title)

    def epoch(self, job, done, of, values):
        self.epochs.append((job.title, done))


@pytest.fixture
def jobs(make_jobs):
    return make_jobs


def rows(job: Job) -> torch.Tensor:
    return safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["head.weight_CD"]


@pytest.fixture
def undisturbed(jobs):
    """The weights of both jobs, trained in one go."""
    done = jobs("undisturbed")
    assert InProcess().run(done, Silent()) == {}
    return [rows(job) for job in done]


def stop_after(job: Job, epochs: int) -> None:
    def report(done, of, values):
        if done == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainingByEntry()(job, report)


def test_order_of_the_jobs_does_not_matter(jobs, undisturbed):
    done = jobs("reversed")
    InProcess().run(done[::-1], Silent())
    assert all(torch.equal(rows(job), expected) for job, expected in zip(done, undisturbed, strict=True))
    assert not torch.equal(undisturbed[0], undisturbed[1])


@pytest.mark.slow
def test_worker_processes_give_the_same_weights(jobs, undisturbed):
    done, progress = jobs("processes"), Silent()
    assert Processes(workers=2, threads=torch.get_num_threads()).run(done, progress) == {}
    assert all(torch.equal(rows(job), expected) for job, expected in zip(done, undisturbed, strict=True))
    assert sorted(progress.ended) == [job.title for job in done]
    assert sorted(progress.epochs) == [(job.title, done) for job in done for done in range(1, EPOCHS + 1)]


def test_two_processes_with_ddp_are_one_process_with_the_same_batch(jobs, undisturbed):
    """Clusters of 8 identities have some 40 samples: the last batch of 8 is shared unevenly, or by one alone."""
    done = jobs("ddp", devices=2, strategy="ddp")
    progress = Silent()
    assert Processes(workers=1, threads=1).run(done, progress) == {}
    for job, expected in zip(done, undisturbed, strict=True):
        torch.testing.assert_close(rows(job), expected, rtol=0, atol=1e-6)
    alone, together = jobs("undisturbed")[0].record()["history"], done[0].record()["history"]
    for name in ("train/loss", "val/loss", "val/accuracy_percent"):
        assert [epoch[name] for epoch in together] == pytest.approx([epoch[name] for epoch in alone], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["adaface.AdaFace", "magface.MagFace", "uniface.UniFace"])
def test_a_loss_with_statistics_or_parameters_is_that_of_all_ranks(jobs, loss):
    """Statistics of one rank's samples were 1e-4 off."""
    how = {"loss": {"_target_": f"lightning_modules.losses.{loss}"}, "matmul": "highest"}
    alone, together = jobs("alone", **how)[0], jobs("ddp", devices=2, strategy="ddp", **how)[0]
    assert InProcess().run([alone], Silent()) == Processes(workers=1, threads=1).run([together], Silent()) == {}
    one, two = (safetensors.torch.load_file(job.stem.with_suffix(".safetensors")) for job in (alone, together))
    assert one.keys() == two.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("gpus", "devices", "per_gpu", "jobs", "workers", "share"),
    [
        ("0", 1, 8, 20, 8, 8), ("0,1", 1, 8, 20, 16, 8), ("0,1", 1, 8, 3, 16, 2), ("0,1,2,3", 2, 2, 20, 4, 2),
        ("0,1", 1, 1, 20, 2, 1),
    ],
)  # fmt: skip
def test_workers_share_gpus(monkeypatch, gpus, devices, per_gpu, jobs, workers, share):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    launcher = Processes(per_gpu=per_gpu)
    assert launcher.at_once(devices) == workers and launcher.on_one_gpu(devices, jobs) == share
    assert Processes(workers=5, per_gpu=per_gpu).at_once(devices) == 5


def test_each_worker_sees_its_one_gpu_and_every_gpu_has_its_workers(jobs, monkeypatch):
    seen, real = [], subprocess.Popen
    does_nothing = """for line in __import__("sys").stdin:
        __import__("time").sleep(0.5), print('{"event": "done"}', flush=True)"""

    def popen(command, env, **more):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return real([sys.executable, "-c", does_nothing], env=env, **more)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert Processes(per_gpu=2, threads=1).run(2 * jobs("shared"), Silent()) == {}
    assert sorted(seen) == ["4", "4", "7", "7"]


def test_without_a_gpu_per_gpu_does_nothing_and_it_is_at_least_one(monkeypatch):
    monkeypatch.setattr("experiments.training.launchers.processes.visible_gpus", list)
    assert Processes(per_gpu=8).at_once(1) == Processes().at_once(1) == os.cpu_count()
    with pytest.raises(InputError, match="launcher.per_gpu = 0.*at least 1"):
        Processes(per_gpu=0)


@pytest.mark.parametrize(("num_gpus", "share"), [(0, 1), (0.125, 8), (0.5, 2), (0.3, 3), (1, 1), (2, 1)])
def test_a_share_of_a_gpu_lets_so_many_ray_tasks_use_it(num_gpus, share):
    from experiments.training.launchers.ray import Ray

    assert Ray(num_gpus=num_gpus).on_one_gpu(1, 20) == share and Ray(num_gpus=num_gpus).on_one_gpu(1, 1) == 1


@pytest.mark.slow
def test_ray_gives_the_same_weights(jobs, undisturbed):
    pytest.importorskip("ray")
    from experiments.training.launchers.ray import Ray

    done = jobs("ray")
    assert Ray().run(done, Silent()) == {}
    assert all(torch.equal(rows(job), expected) for job, expected in zip(done, undisturbed, strict=True))


def ancestors(process: int) -> list[int]:
    found = [process]
    while found[-1] > 1:
        status = Path(f"/proc/{found[-1]}/stat")
        if not status.exists():
            break
        found.append(int(status.read_text().rpartition(")")[2].split()[1]))
    return found


@pytest.mark.slow
def test_a_killed_ray_worker_is_replaced_and_its_job_goes_on(jobs, undisturbed):
    pytest.importorskip("ray")
    from experiments.training.launchers.ray import Ray

    done, killed = jobs("ray"), []

    def kill():
        while not any(epoch_files(job.stem) for job in done):
            time.sleep(0.01)
        found = subprocess.run(["pgrep", "-f", "^ray::_train"], capture_output=True, text=True)
        for process in map(int, found.stdout.split()):
            if os.getpid() in ancestors(process):  # others may use Ray on this machine
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    assert Ray(retries=1).run(done, Silent()) == {}
    killer.join()
    assert killed
    assert all(torch.equal(rows(job), expected) for job, expected in zip(done, undisturbed, strict=True))


@pytest.mark.slow
def test_a_ray_task_trains_on_several_devices_of_its_node(jobs, undisturbed):
    ray = pytest.importorskip("ray")
    from experiments.training.launchers.ray import Ray

    done = jobs("ray", devices=2, strategy="ddp")
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}})  # fmt: skip
    try:
        assert Ray(num_gpus=0.5).run(done, Silent()) == {}
    finally:
        ray.shutdown()
    for job, expected in zip(done, undisturbed, strict=True):
        torch.testing.assert_close(rows(job), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_job_that_no_node_here_could_start_is_refused(jobs):
    pytest.importorskip("ray")
    from experiments.training.launchers.ray import Ray

    with pytest.raises(InputError, match="num_gpus"):
        Ray(num_gpus=64).run(jobs("ray"), Silent())


@pytest.mark.parametrize("epochs", [1, 3, EPOCHS])
def test_a_stopped_job_goes_on_to_the_same_weights(jobs, undisturbed, epochs):
    job = jobs("stopped")[0]
    stop_after(job, epochs)
    assert job.record() is None
    seen = []
    TrainingByEntry()(job, lambda done, of, values: seen.append(done))
    assert seen[0] == epochs  # the epoch that was under way is the only one trained twice
    assert torch.equal(rows(job), undisturbed[0])
    assert [record["epoch"] for record in job.record()["history"]] == list(range(EPOCHS))
    assert not epoch_files(job.stem)


def test_a_damaged_checkpoint_costs_one_epoch_more(jobs, undisturbed):
    job = jobs("damaged")[0]
    stop_after(job, 5)
    older, newest = sorted(epoch_files(job.stem))
    assert (older, newest) == (2, 3)
    file = epoch_files(job.stem)[newest]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="altered"):
        SafetensorsIO("key").load_checkpoint(file)
    seen = []
    TrainingByEntry()(job, lambda done, of, values: seen.append(done))
    assert seen[0] == older + 2  # epochs of files count from 0
    assert torch.equal(rows(job), undisturbed[0])


def test_a_damaged_checkpoint_is_written_again_with_its_epoch(jobs):
    job = jobs("rewritten")[0]
    stop_after(job, 5)
    newest = max(epoch_files(job.stem))
    epoch_files(job.stem)[newest].write_bytes(b"rubbish")
    stop_after(job, newest + 2)
    assert sorted(epoch_files(job.stem)) == [newest - 1, newest]
    SafetensorsIO("key").load_checkpoint(epoch_files(job.stem)[newest])


@pytest.mark.slow
def test_a_job_begun_by_two_ranks_is_finished_by_one(jobs, undisturbed):
    class Stopped(Silent):
        def epoch(self, job, done, of, values):
            if done == 3:
                raise KeyboardInterrupt

    (job, _), (alone, _) = jobs("moved", devices=2, strategy="ddp"), jobs("moved")
    with pytest.raises(KeyboardInterrupt):
        Processes(workers=1, threads=1).run([job], Stopped())
    assert epoch_files(job.stem) and job.stem == alone.stem
    seen = Silent()
    assert InProcess().run([alone], seen) == {} and seen.epochs[0][1] >= 3
    torch.testing.assert_close(rows(alone), undisturbed[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 50])
def test_without_an_intact_checkpoint_the_job_starts_anew(jobs, undisturbed, damage):
    job = jobs("anew")[0]
    stop_after(job, 5)
    for file in epoch_files(job.stem).values():
        file.write_bytes(damage)
    TrainingByEntry()(job)
    assert torch.equal(rows(job), undisturbed[0])


def test_a_checkpoint_of_another_recipe_is_not_used(jobs):
    job = jobs("foreign")[0]
    stop_after(job, 3)
    with pytest.raises(InputError, match="of lineage key"):
        SafetensorsIO("another").load_checkpoint(epoch_files(job.stem)[1])


@pytest.mark.parametrize("launcher", [InProcess(), Processes(workers=1, threads=1)])
def test_one_job_that_fails_does_not_cost_the_others(jobs, launcher):
    bad = jobs("failing", loss={"_target_": "lightning_modules.losses.arcface.ArcFace", "margin": 9.0})
    good = jobs("failing")
    failed = launcher.run([bad[0], good[1]], Silent())
    assert list(failed) == [bad[0].identifier] and "margin" in failed[bad[0].identifier]
    assert good[1].record() is not None and bad[0].record() is None


def test_a_killed_worker_is_replaced_and_its_job_goes_on(jobs, undisturbed):
    done, launcher = jobs("killed"), Processes(workers=1, threads=torch.get_num_threads())

    class Killer(Silent):
        def epoch(self, job, number, of, values):
            super().epoch(job, number, of, values)
            if len(self.epochs) == 3:
                found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "training.worker"], capture_output=True)
                for process in found.stdout.split():
                    os.kill(int(process), signal.SIGKILL)

    killer = Killer()
    assert launcher.run(done, killer) == {}
    assert len(killer.started) == 3
    assert all(torch.equal(rows(job), expected) for job, expected in zip(done, undisturbed, strict=True))


def test_a_worker_whose_coordinator_is_gone_ends(jobs):
    job = jobs("orphan")[0]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "experiments.training.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environment, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    worker.stdin.write(job.to_json() + "\n")
    worker.stdin.flush()
    assert '"epoch"' in worker.stdout.readline()
    worker.stdin.close()
    deadline = time.monotonic() + 60
    while worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.poll() is not None
