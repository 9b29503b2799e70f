# SPDX-License-Identifier: MIT
"""Twelve faults, and that the drill notices what it is there to notice."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from datamodules.files import sha256, write_sealed
from tests.faults.faults import KINDS, Undisturbed, damage, plan
from tests.faults.tally import begun, repeated
from tests.faults.trial import EPOCHS, Failed, Trial

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_twelve_faults_are_survived():
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--faults", "12"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lost = re.fullmatch(r"faults 12 survived 12 lost_epochs (\d+)", ended.stdout.splitlines()[-1])
    assert lost and int(lost[1]) <= 13  # one each, and one more where two workers were stopped


def test_the_plan_is_that_of_the_seed_and_has_every_kind_first():
    assert plan(100, 3) == plan(100, 3) != plan(100, 4)
    assert plan(12, 0) == list(KINDS[:12]) and set(plan(100, 0)) == set(KINDS)


def test_epochs_begun_twice_are_counted(tmp_path):
    assert repeated(tmp_path / "tally").total() == 0
    (tmp_path / "tally").write_text("a/0 0 1\na/0 1 1\na/0 1 2\na/1 0 3\na/1 0 4\na/1 0 4\n")
    assert repeated(tmp_path / "tally") == {"a/0": 1, "a/1": 2} and begun(tmp_path / "tally")[-1] == ("a/1", 0, 4)


@pytest.fixture
def finished(tmp_path):
    """A made-up finished run, and an equal one, as trials."""
    trial = Trial(tmp_path / "one", tmp_path)
    weights = trial.run / "subnetworks" / "key" / "00000.safetensors"
    weights.parent.mkdir(parents=True)
    safetensors.numpy.save_file({"rows": np.eye(3, dtype=np.float32)}, weights)
    columns = {
        "scenario": ["knn"], "accuracy": [12.5], "epoch_seconds_serial": [1.0], "epoch_seconds_parallel": [1.0],
        "train_seconds": [1.0], "peak_memory_mb": [1.0], "query_microseconds": [1.0],
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(trial.run / "results.csv", index=False)
    files = {str(file.relative_to(trial.run)): sha256(file) for file in (weights, trial.run / "results.csv")}
    facts = {"subnetworks": {"key/00000": {"state": "done"}}, "failed": {}, "files": files}
    write_sealed(trial.run / "manifest.json", facts)
    shutil.copytree(trial.folder, tmp_path / "other")
    assert trial.check(Trial(tmp_path / "other", tmp_path), 0) == (0, 0)
    return trial, Trial(tmp_path / "other", tmp_path)


def rewrite(trial, name, old, new):
    (trial.run / name).write_text((trial.run / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("disturb", "words"),
    [
        (lambda trial: rewrite(trial, "results.csv", "12.5", "12.500001"), "results.csv differs"),
        (lambda trial: rewrite(trial, "results.csv", "knn,12.5,1.0", "knn,12.5,7.0"), "does not describe"),
        (lambda trial: (trial.run / "subnetworks/key/00000.safetensors").write_bytes(b""), "weights differ"),
        (lambda trial: (trial.run / ".results.csv.x.tmp").write_text(""), "left behind"),
        (lambda trial: (trial.run / "subnetworks/key/00000.epoch-0001.safetensors").write_text(""), "left behind"),
        (lambda trial: trial.tally.write_text("a 0 1\na 0 1\n"), "trained twice"),
    ],
)
def test_a_run_that_is_not_as_the_undisturbed_one_is_noticed(finished, disturb, words):
    trial, other = finished
    disturb(trial)
    with pytest.raises(Failed, match=words):
        trial.check(other, 0)


def test_epochs_of_a_damaged_finished_sub_network_count_apart(finished):
    trial, other = finished
    once = [f"{name} {epoch} 1" for name in ("key/0", "key/1") for epoch in range(EPOCHS)]
    trial.tally.write_text("\n".join([*once, *once[:EPOCHS], once[-1]]))
    with pytest.raises(Failed, match=f"{EPOCHS + 1} epochs were trained twice, at most 1"):
        trial.check(other, 1)
    trial.damaged = "key/0"
    assert trial.check(other, 1) == (1, EPOCHS)
    trial.tally.write_text("\n".join([*once, *once[:EPOCHS], once[0]]))
    with pytest.raises(Failed, match="of a damaged sub-network"):
        trial.check(other, 1)


def test_only_damage_to_a_finished_file_makes_its_sub_network_the_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Trial, "start", lambda self, *arguments, prepare=None: 0)
    monkeypatch.setattr(Trial, "end", lambda self, process: 0)
    found = set()
    for seed in range(40):
        trial = Trial(tmp_path / str(seed), tmp_path)
        for name in ("00001.safetensors", "00002.json", "00003.epoch-0004.safetensors"):
            file = trial.run / "subnetworks" / "key" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"content")
        (trial.run / "results.csv").write_bytes(b"content")
        said = damage("flip", trial, random.Random(seed), Undisturbed(1.0, 1, 1))
        found.add((said.split()[1].rpartition("/")[2], trial.damaged))
    assert found == {
        ("00001.safetensors", "key/1"), ("00002.json", "key/2"), ("00003.epoch-0004.safetensors", None),
        ("results.csv", None),
    }  # fmt: skip


@pytest.mark.parametrize("state", ["training", "failed", "pending"])
def test_a_sub_network_that_is_not_done_is_noticed(finished, state):
    trial, other = finished
    write_sealed(trial.run / "manifest.json", {"subnetworks": {"a": {"state": state}}, "failed": {}, "files": {}})
    with pytest.raises(Failed, match=state):
        trial.check(other, 0)
