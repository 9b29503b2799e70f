# SPDX-License-Identifier: MIT
"""A process may die at every single step of a save, and the disk may refuse from any step on."""

import errno
import itertools
import os

import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf

from callbacks.checkpoints import SafetensorsIO, epoch_files
from datamodules.errors import InputError
from datamodules.files import disk_error, remove_leftovers
from datamodules.partitioners.base import Partition
from experiments.runs.run_folder import RunFolder
from experiments.training.job import Job, Recipe
from tests.faults.injection import die_at, refuse_from

WEIGHTS = {"rows": torch.arange(12, dtype=torch.float32).reshape(4, 3)}
CONFIG = OmegaConf.create({"loss": {"scale": 64.0}})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("experiments.runs.run_folder.provenance", lambda: {})  # it asks git
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # processes die here, no machine does


def in_a_child(disturb, work) -> bool:
    """Whether `work` came to its end, and not to an error of the disk, in a process of its own that is disturbed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            disturb()
            work()
            code = 0
        except Exception as error:
            code = 2 if isinstance(error, InputError) or disk_error(error) else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) != 1
    return os.WEXITSTATUS(status) == 0


def steps(tmp_path, kind):
    """Folders of their own, and what disturbs whoever works in them at step 0, 1, ...; without end."""
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        if isinstance(kind, str):
            yield folder, lambda folder=folder, step=step: die_at(folder, step, kind == "half")
        else:
            yield folder, lambda folder=folder, step=step: refuse_from(folder, step, kind)


KINDS = pytest.mark.parametrize(
    "kind",
    ["half", errno.EROFS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("die", errno.ENOSPC))],
    ids=str,
)


@KINDS
def test_a_sub_network_is_finished_or_goes_on_from_its_checkpoint(tmp_path, kind):
    for number, (folder, disturb) in enumerate(steps(tmp_path, kind)):
        job = Job("run", str(folder), "data", {}, "partition", 3, Recipe({}, {}, {}, {}, 0), "key", "title", {}, {})
        SafetensorsIO("key").save_checkpoint({"epoch": 1, **WEIGHTS}, job.stem.with_suffix(".epoch-0001.safetensors"))
        ended = in_a_child(disturb, lambda job=job: job.finish(WEIGHTS, {"epochs": 2}))
        remove_leftovers(folder)
        record = job.record()
        if record is None:
            assert not ended and SafetensorsIO("key").load_checkpoint(epoch_files(job.stem)[1])
        else:
            assert record["epochs"] == 2
            rows = safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["rows"]
            assert torch.equal(rows, WEIGHTS["rows"])
        if ended:
            assert number > 10
            return


@KINDS
def test_a_run_folder_can_be_opened_again_and_has_lost_no_fact(tmp_path, kind):
    def work(folder):
        with RunFolder(folder / "run", CONFIG) as run:
            run.note(two=2)

    for number, (folder, disturb) in enumerate(steps(tmp_path, kind)):
        with RunFolder(folder / "run", CONFIG) as run:
            run.note(one=1)
        ended = in_a_child(disturb, lambda folder=folder: work(folder))
        with RunFolder(folder / "run", CONFIG) as run:
            assert run.manifest["one"] == 1 and (run.manifest.get("two") == 2 or not ended)
            assert OmegaConf.load(run.path / "config.yaml") == CONFIG
            assert sorted(file.name for file in run.path.iterdir()) == [
                ".lock", "config.yaml", "log.txt", "manifest.json",
            ]  # fmt: skip
        if ended:
            assert number > 10
            return


@KINDS
def test_a_new_run_folder_can_be_opened_whatever_was_left_of_it(tmp_path, kind):
    def work(folder):
        with RunFolder(folder / "run", CONFIG) as run:
            run.note(one=1)

    for number, (folder, disturb) in enumerate(steps(tmp_path, kind)):
        ended = in_a_child(disturb, lambda folder=folder: work(folder))
        work(folder)
        if ended:
            assert number > 10
            return


@KINDS
def test_a_partition_is_there_whole_or_not_at_all(tmp_path, kind):
    partition = Partition(torch.tensor([0, 1, 0, 1]).numpy(), 2)
    for number, (folder, disturb) in enumerate(steps(tmp_path, kind)):
        ended = in_a_child(disturb, lambda folder=folder: partition.save(folder / "partitions" / "p"))
        remove_leftovers(folder)
        if (folder / "partitions" / "p").exists():
            assert Partition.load(folder / "partitions" / "p").hash() == partition.hash()
        else:
            assert not ended
        if ended:
            assert number > 5
            return
