# SPDX-License-Identifier: MIT
"""`experiments.train run=`: an Identifier of a finished comparison, without training or a change to it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.embedding_set import EmbeddingSet
from datamodules.splits import split_identities
from experiments.enrolment.original import open_original
from lightning_modules.identifier import Identifier

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["knn", "clustered_nearest", "clustered_fused", "loss.margin=0.3", "clustered_nearest,trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, call, quick, set_folder):
    """The folder of a comparison of `ROWS` at two N with two seeds, a fifth of the people unknown; beside its data."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(set_folder, folder / "people")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
        ended = call(
            "compare", *quick, f"data.path={folder / 'people'}", f"runs_dir={folder}", "name=first", "seeds=[0,3]",
            f"scenarios={json.dumps(ROWS)}", "n_identities=[8,12]", "split.held_out=0.2", "n_subnets=[2,3]",
        )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder / "first"


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr("experiments.comparison.coordinator.train", lambda *_: pytest.fail("trained"))


def state(folder: Path) -> dict[str, tuple]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize("scenario", ROWS)
@pytest.mark.parametrize("n, seed", [(8, 0), (12, 3)])
def test_the_identifier_answers_the_test_probes_as_results_csv_says(run, call, tmp_path, scenario, n, seed):
    before = state(run)
    asked = (f"n_identities={n}", f"seed={seed}", f"scenario={scenario}", "fpir=0.1", "enrol_held_out=false")
    ended = call("train", f"run={run}", *asked, f"out={tmp_path / 'identifier'}", "logger=none")
    assert ended.code == 0 and "held-out people (enrol_held_out=false)" in ended.out, ended.err
    assert state(run) == before
    identifier = Identifier.load(tmp_path / "identifier")
    people = EmbeddingSet.open(run.parent / "people")
    splits = split_identities(people, n, seed, max_test_images=5, held_out=0.2)
    assert identifier.identities == tuple(people.identities[i] for i in splits.enrolled)
    found = replace(identifier, threshold=None).identify(people.embeddings[splits.test.rows]).index
    results = pd.read_csv(run / "results.csv").set_index(["scenario", "n_identities", "seed"])
    assert 100 * np.mean(found == splits.test.labels) == pytest.approx(results.accuracy[scenario, n, seed], abs=1e-4)
    assert identifier.partition.n_clusters == results.n_subnets[scenario, n, seed]
    named = np.mean(identifier.identify(people.embeddings[splits.unknown.rows]).index >= 0)
    assert 0 < named <= 0.1  # the threshold stands for fpir


@pytest.mark.parametrize("scenario", ROWS[:3])
def test_the_held_out_people_are_enrolled_after_the_threshold_was_set(run, call, tmp_path, scenario):
    asked = (f"run={run}", "n_identities=12", "seed=3", f"scenario={scenario}", "fpir=0.1", "logger=none")
    for out, more in (("without", ["enrol_held_out=false"]), ("with", [])):
        ended = call("train", *asked, f"out={tmp_path / out}", *more)
        assert ended.code == 0, ended.err
    without, all_of_them = (Identifier.load(tmp_path / name) for name in ("without", "with"))
    people = EmbeddingSet.open(run.parent / "people")
    splits = split_identities(people, 12, 3, max_test_images=5, held_out=0.2)
    held_out = sorted({people.identities[label] for label in people.labels[splits.unknown.rows]})
    assert all_of_them.identities == (*without.identities, *held_out) and len(held_out) == 3
    assert all_of_them.threshold == without.threshold
    assert f"3 held-out people are enrolled too, after the threshold was set: {', '.join(held_out)}" in ended.out
    truth = tuple(people.identities[label] for label in people.labels[splits.unknown.rows])
    found = replace(all_of_them, threshold=None).identify(people.embeddings[splits.unknown.rows])
    assert np.mean([a == b for a, b in zip(found.identity, truth, strict=True)]) > 0.5  # by chance 7 %
    for name in held_out:  # experiments.enrol finds the pictures of those that it can remove again
        assert name in open_original(all_of_them).names


def test_an_index_may_be_chosen_and_m_be_named(run, call, tmp_path):
    asked = ("n_identities=12", "n_subnets=3", "index=ivf", "index.n_probe=1", "fpir=0.2")
    ended = call("train", f"run={run}", *asked, f"out={tmp_path / 'identifier'}", "logger=none")
    assert ended.code == 0 and "answered as without it" in ended.out, ended.err
    assert Identifier.load(tmp_path / "identifier").uses_index


def test_generated_data_are_found_again_at_every_size(call, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    monkeypatch.chdir(tmp_path)  # runs_dir is a relative path
    sizes = ("data.dim=16", "n_identities=[30,50]", "n_subnets=2", "seeds=1", "scenarios=[knn]")
    assert call("compare", *sizes, "logger=none", "name=generated").code == 0
    ended = call("train", "run=runs/generated", "scenario=knn", "n_identities=30", "out=identifier", "logger=none")
    assert ended.code == 0 and len(Identifier.load(tmp_path / "identifier").identities) == 30, ended.err
    assert len(list((tmp_path / "runs/data").iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["scenario=clustered_maxmax"], ["clustered_maxmax", "clustered_nearest", "loss.margin=0.3"]),
        (["scenario=loss.margin=0.4"], ["loss.margin=0.4", "loss.margin=0.3"]),
        (["scenario=clustered_nearst"], ["clustered_nearst", "did you mean clustered_nearest?"]),
        (["n_identities=9"], ["n_identities = 9", "8, 12"]),
        (["n_identities=null"], ["n_identities = None", "8, 12"]),
        (["n_subnets=3"], ["n_subnets = 3", "2"]),
        (["seed=1"], ["seed = 1", "0, 3"]),
        (["loss=cosface"], ["loss=", "scenario"]),
        (["trainer.max_epochs=3"], ["trainer="]),
        (["run={run}/cells"], ["config.yaml", "finished comparison"]),
        (["run={run}-that-is-not-there"], ["that-is-not-there"]),
        (["out=null"], ["out=identifier"]),
        (["out={run}"], ["exists"]),
        (["fpir=0.001"], ["fpir"]),
        (["index=exakt"], ["exakt"]),
    ],
    ids=str,
)
def test_what_the_run_does_not_have_is_refused(run, call, tmp_path, arguments, words):
    before = state(run)
    base = {"run": run, "out": tmp_path / "identifier", "n_identities": 8, "fpir": 0.1, "logger": "none"}
    given = [argument.format(run=run) for argument in arguments]
    kept = [f"{key}={value}" for key, value in base.items() if not any(one.startswith(f"{key}=") for one in given)]
    call("train", *kept, *given).assert_refused(*words)
    assert state(run) == before and not any(tmp_path.iterdir())


def damage(run: Path, what: str) -> str:
    """Damages a copy of the run's folder, and says what the error should name."""
    if what == "sub-network cut":
        for weights in run.glob("subnetworks/*/00001.safetensors"):
            weights.write_bytes(weights.read_bytes()[:-8])
        return "cluster 1"
    if what == "sub-network missing":
        for weights in run.glob("subnetworks/*/00000.safetensors"):
            weights.unlink()
        return "cluster 0"
    if what == "partition altered":
        for file in run.glob("partitions/*kmeans*/*.json"):
            file.write_text(file.read_text() + " ")
        return "partitions"
    if what == "partition missing":
        shutil.rmtree(run / "partitions")
        return "partitions"
    if what == "manifest":
        (run / "manifest.json").write_text("{}")
        return "manifest.json"
    if what == "unfinished":
        shutil.rmtree(run / "cells")
        return "without results"
    file = run.parent / "people" / "embeddings.npy"
    embeddings = np.load(file)
    np.save(file, embeddings + 1)
    return "fingerprint"


DAMAGE = ["sub-network cut", "sub-network missing", "partition altered", "partition missing", "manifest", "unfinished"]


@pytest.mark.parametrize("what", [*DAMAGE, "data"])
def test_a_damaged_run_is_refused_and_left_as_it_is(run, call, tmp_path, what):
    shutil.copytree(run.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "first"
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent), str(tmp_path / "copy")))
    word = damage(copy, what)
    before = state(copy.parent)
    asked = (f"run={copy}", "n_identities=8", "fpir=0.1", f"out={tmp_path / 'identifier'}", "logger=none")
    call("train", *asked).assert_refused(word)
    assert state(copy.parent) == before and not (tmp_path / "identifier").exists()


def test_a_real_process_says_of_a_damaged_run_one_line(run, tmp_path):
    shutil.copytree(run, tmp_path / "first")
    damage(tmp_path / "first", "sub-network cut")
    words = [f"run={tmp_path / 'first'}", "n_identities=8", "fpir=0.1", f"out={tmp_path / 'identifier'}", "logger=none"]
    command = [sys.executable, "-m", "experiments.train", *words, "--quiet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert ended.returncode == 2 and ended.stdout == "" and ended.stderr.count("\n") == 1, ended.stderr
