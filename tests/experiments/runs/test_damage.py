# SPDX-License-Identifier: MIT
"""Damage to any one file of a finished run costs one sub-network at most, and the results stay the same."""

import errno
import json
import os
import shutil

import pandas as pd
import pytest
import safetensors.torch
import torch

from callbacks.checkpoints import SafetensorsIO, epoch_files
from datamodules.errors import DiskError
from datamodules.files import sha256
from experiments.comparison import coordinator
from experiments.training.job import Job, Recipe

ARGUMENTS = ("name=run", "seeds=1", "scenarios=[knn,clustered_nearest]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, call, quick):
    """A finished run folder; not to be changed."""
    runs_dir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
        assert call("compare", *quick, f"runs_dir={runs_dir}", *ARGUMENTS).code == 0
    return runs_dir / "run"


@pytest.fixture
def again(tmp_path, finished, call, quick, monkeypatch):
    """A copy of the run in `<tmp_path>/run`, and `again()`, which repeats the command on it."""
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    shutil.copytree(finished, tmp_path / "run")
    return lambda *more: call("compare", *quick, f"runs_dir={tmp_path}", *ARGUMENTS, *more)


def shape(folder):
    return {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize(
    "pattern",
    [
        "subnetworks/*/00001.safetensors", "subnetworks/*/00001.json", "partitions/*kmeans*/partition.npy",
        "partitions/*kmeans*/partition.json", "cells/*nearest.json", "cells/*knn.json", "results.csv",
        "details/history.csv", "manifest.json", "config.yaml",
    ],
)  # fmt: skip
def test_a_damaged_file_costs_its_own_sub_network_or_nothing(tmp_path, finished, again, monkeypatch, pattern, damage):
    train, trained = coordinator.train, []
    monkeypatch.setattr(coordinator, "train", lambda job, *rest: (trained.append(job.cluster), train(job, *rest)))
    (file,) = (tmp_path / "run").glob(pattern)
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        place = len(content) * 2 // 3
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    ended = again()
    assert ended.code == 0, ended.out + ended.err
    assert trained == ([1] if pattern.startswith("subnetworks/") else [])
    measured = [name for name in pd.read_csv(finished / "results.csv") if "seconds" in name or "memory" in name]
    ours, theirs = (pd.read_csv(run / "results.csv").drop(columns=measured) for run in (tmp_path / "run", finished))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert shape(tmp_path / "run") == shape(finished)
    files, usual = (json.loads((run / "manifest.json").read_text())["files"] for run in (tmp_path / "run", finished))
    assert files.keys() == usual.keys()
    for name, known in files.items():
        assert sha256(tmp_path / "run" / name) == known


def test_the_manifest_says_what_the_issue_of_a_resume_needs(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert {"config_hash", "data_fingerprint", "partitions", "subnetworks", "files"} <= manifest.keys()
    (partition,) = (finished / "partitions").glob("*kmeans*")
    assert manifest["partitions"][partition.name] == json.loads((partition / "partition.json").read_text())["hash"]
    assert len(manifest["subnetworks"]) == 2
    for about in manifest["subnetworks"].values():
        assert about["state"] == "done" and about["seed"] == 0 and about["partition"] == partition.name
        for file in (f"{about['file']}.safetensors", f"{about['file']}.json"):
            assert manifest["files"][file] == sha256(finished / file)


def test_states_are_pending_training_and_done_as_it_goes_on(tmp_path, again, monkeypatch):
    shutil.rmtree(tmp_path / "run")
    train, seen = coordinator.train, []

    def watched(job, data, report=None):
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        seen.append({about["file"][-5:]: about["state"] for about in manifest["subnetworks"].values()})
        train(job, data, report)

    monkeypatch.setattr(coordinator, "train", watched)
    monkeypatch.setattr("experiments.runs.run_folder.SECONDS_BETWEEN_NOTES", -1.0)
    assert again().code == 0
    assert seen == [{"00000": "training", "00001": "pending"}, {"00000": "done", "00001": "training"}]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_stops_the_run_in_one_line_and_not_every_sub_network(tmp_path, again, monkeypatch, number):
    shutil.rmtree(tmp_path / "run")
    tried = []

    def train(job, data, report=None):
        tried.append(job.cluster)
        raise OSError(number, os.strerror(number), "/somewhere")

    monkeypatch.setattr(coordinator, "train", train)
    again().assert_refused(os.strerror(number), "/somewhere", "repeat the command")
    assert tried == [0]


@pytest.fixture
def job(tmp_path):
    recipe = Recipe({}, {}, {}, {}, 0)
    return Job("run", str(tmp_path), "data", {}, "partition", 3, recipe, "key", "title", {}, {})


WEIGHTS = {"rows": torch.arange(12, dtype=torch.float32).reshape(4, 3)}


@pytest.mark.parametrize("step", ["safetensors.torch.save_file", "experiments.training.job.write_sealed"])
def test_a_job_is_finished_once_its_record_is_there_and_keeps_its_checkpoints_until_then(job, monkeypatch, step):
    def killed(*_):
        raise KeyboardInterrupt

    SafetensorsIO("key").save_checkpoint({"epoch": 1, **WEIGHTS}, job.stem.with_suffix(".epoch-0001.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(KeyboardInterrupt):
            job.finish(WEIGHTS, {"epochs": 2})
    assert job.record() is None and epoch_files(job.stem)
    finished = job.finish(WEIGHTS, {"epochs": 2})
    assert job.record() == finished and finished["epochs"] == 2 and not epoch_files(job.stem)
    assert torch.equal(safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))["rows"], WEIGHTS["rows"])


def test_finishing_removes_the_checkpoints_and_a_record_that_is_no_json_is_refused_before_anything(job):
    SafetensorsIO("key").save_checkpoint({"epoch": 1, **WEIGHTS}, job.stem.with_suffix(".epoch-0001.safetensors"))
    with pytest.raises(ValueError):
        job.finish(WEIGHTS, {"loss": float("nan")})
    assert len(list(job.stem.parent.iterdir())) == 1
    job.finish(WEIGHTS, {})
    assert sorted(file.name for file in job.stem.parent.iterdir()) == ["00003.json", "00003.safetensors"]


def test_an_error_of_the_disk_from_deep_inside_is_one_line_too(tmp_path, again, monkeypatch):
    shutil.rmtree(tmp_path / "run")

    def full(*_):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)  # of the first checkpoint
    again().assert_refused("No space left", ".epoch-0000", "make room")


def test_weights_that_cannot_be_written_are_the_disks_fault(job, monkeypatch):
    def full(*_):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(DiskError, match="No space left"):
        job.finish(WEIGHTS, {})
