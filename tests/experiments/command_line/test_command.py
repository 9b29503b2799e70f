# SPDX-License-Identifier: MIT
"""The commands as a user meets them: bad input is one line and exit code 2, and leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from experiments.command_line import choices
from experiments.command_line import command as frame
from experiments.command_line.errors import as_input_error
from lightning_modules.identifier import Identifier

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def compare(call, quick, tmp_path):
    """Calls compare with the toy set and further arguments; runs_dir is `<tmp_path>/runs`."""
    return lambda *arguments: call("compare", *quick, f"runs_dir={tmp_path}/runs", "seeds=1", "name=mine", *arguments)


def assert_nothing_left(tmp_path):
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        # keys
        (["trainr.max_epochs=3"], ["trainr"]),
        (["trainer.epochs=3"], ["epochs"]),
        (["loss.margn=0.3"], ["margn"]),
        (["+loss.margn=0.3"], ["margn"]),
        (["+nothing=3"], ["nothing"]),
        (["loss=arcfase"], ["arcfase", "arcface"]),
        (["scenarios=[clustered_neares]"], ["clustered_neares", "clustered_nearest"]),
        (["n_identities"], ["n_identities"]),
        (["data=null"], ["data"]),
        # values
        (["trainer.max_epochs=many"], ["max_epochs", "many"]),
        (["trainer.max_epochs=-1"], ["max_epochs"]),
        (["trainer.batch_size=0"], ["batch_size"]),
        (["trainer.matmul=fast"], ["matmul", "fast"]),
        (["trainer.accelerator=abacus"], ["abacus"]),
        (["loss.margin=2"], ["margin"]),
        (["loss.scale=-1"], ["scale"]),
        (["optimizer.lr=-1"], ["-1"]),
        (["partitioner.n_init=0"], ["n_init"]),
        (["partitioner=random", "partitioner.shuffle=-1"], ["-1"]),
        (["seeds=0"], ["seeds"]),
        (["scenarios=[]"], ["scenarios"]),
        (["n_subnets=17"], ["17", "16"]),
        (["n_subnets=[2,3]"], ["n_subnets"]),
        (["n_identities=17"], ["n_identities = 17", "16"]),
        (["split.held_out=1", "enrol_held_out=false"], ["held_out"]),
        (["split.max_test_images=0"], ["max_test_images"]),
        # data
        (["data.path=/nowhere/at/all"], ["/nowhere/at/all", "prepare"]),
        (["~data.path"], ["path"]),
    ],
    ids=str,
)
def test_keys_and_values_that_cannot_be_used(compare, tmp_path, arguments, words):
    compare(*arguments).assert_refused(*words)
    assert_nothing_left(tmp_path)


def damaged(folder: Path, how: str) -> None:
    embeddings, labels = np.load(folder / "embeddings.npy"), np.load(folder / "labels.npy")
    if how == "missing":
        (folder / "labels.npy").unlink()
    elif how == "truncated":
        (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:-10])
    elif how == "fewer labels":
        np.save(folder / "labels.npy", labels[:-3])
    elif how == "gap":
        np.save(folder / "labels.npy", np.where(labels == 3, 4, labels).astype(np.int32))
    else:
        embeddings[[7, 9]] = np.nan if how == "NaN" else 0
        np.save(folder / "embeddings.npy", embeddings)


@pytest.mark.parametrize(
    "how, words",
    [
        ("missing", ["labels.npy"]),
        ("truncated", ["embeddings.npy"]),
        ("fewer labels", ["labels for"]),
        ("gap", ["1 of 16", "label 3"]),
        ("NaN", ["2 of", "row 7"]),
        ("zero", ["2 of", "row 7", "zero"]),
    ],
)
def test_sets_that_are_not_whole(compare, tmp_path, set_folder, how, words):
    shutil.copytree(set_folder, tmp_path / "set")
    damaged(tmp_path / "set", how)
    compare(f"data.path={tmp_path / 'set'}").assert_refused(*words)
    assert_nothing_left(tmp_path)


def test_a_set_of_single_images_cannot_be_compared(compare, tmp_path, people):
    EmbeddingSet.write(tmp_path / "set", *people(samples=(1, 1)))
    compare(f"data.path={tmp_path / 'set'}").assert_refused("single image")
    assert_nothing_left(tmp_path)


def test_bad_input_can_be_mended_under_the_same_name(compare, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    compare("split.held_out=0.9", "enrol_held_out=false", "n_identities=10").assert_refused()
    assert compare("scenarios=[knn]").code == 0


# Unknown keys inside files --------------------------------------------------------------------------------------------


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the configuration folder that a test may change."""
    shutil.copytree(ROOT / "experiments" / "configs", tmp_path / "configs")
    monkeypatch.setattr(frame, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(choices, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


def test_a_file_of_a_group_with_an_unknown_argument(compare, tmp_path, configs):
    (configs / "loss" / "mine.yaml").write_text(
        "# mine\n_target_: lightning_modules.losses.arcface.ArcFace\nmargn: 0.3\n"
    )
    compare("loss=mine").assert_refused("margn")
    assert_nothing_left(tmp_path)


def test_a_file_of_a_group_that_names_no_class(compare, tmp_path, configs):
    (configs / "loss" / "mine.yaml").write_text("# mine\n_target_: lightning_modules.losses.arcface.ArkFace\n")
    compare("loss=mine").assert_refused("ArkFace")
    (configs / "loss" / "other.yaml").write_text("# other\nscale: 64.0\n")
    compare("loss=other").assert_refused("_target_")
    assert_nothing_left(tmp_path)


def test_a_root_file_with_an_unknown_key(compare, tmp_path, configs):
    root = configs / "compare.yaml"
    root.write_text(root.read_text() + "\ntrainr: {max_epochs: 3}\n")
    compare().assert_refused("trainr")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    "content, words",
    [
        ("title: mine\npartitioner: kmeans\ndecision: argmax\nroutr: nearest_class\n", ["routr"]),
        ("title: mine\npartitioner: kmeans\n", ["decision"]),
        ("title: mine\npartitioner: kmeens\ndecision: argmax\n", ["kmeens", "kmeans"]),
        ("title: mine\npartitioner: kmeans\nrouter: null\ndecision: argmax\n", ["router"]),
        ("title: [mine\n", ["mine.yaml"]),
    ],
    ids=["unknown key", "missing key", "unknown name", "no router for several clusters", "no YAML"],
)
def test_a_scenario_file_that_cannot_be_used(compare, tmp_path, configs, content, words):
    (configs / "scenario" / "mine.yaml").write_text(content)
    compare("scenarios=[mine]").assert_refused(*words)
    assert_nothing_left(tmp_path)


# A real process -------------------------------------------------------------------------------------------------------


def test_a_real_process_prints_one_line_and_leaves_with_2(tmp_path, quick):
    ran = subprocess.run(
        [sys.executable, "-m", "experiments.compare", *quick, "data.path=/nowhere", f"runs_dir={tmp_path}/runs"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and "/nowhere" in ran.stderr and "cure" in ran.stderr
    assert_nothing_left(tmp_path)


# The frame ------------------------------------------------------------------------------------------------------------


def test_the_line_is_one_line_whatever_the_message():
    line = as_input_error(InputError("a\nb", "c\n\n", "d"))
    assert line == "got a b; expected c ; cure: d" or "\n" not in line


def test_an_input_error_behind_another_error_is_found_and_a_defect_is_none():
    try:
        try:
            raise InputError("a", "b", "c")
        except InputError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        assert as_input_error(error) == "got a; expected b; cure: c"
    assert as_input_error(ZeroDivisionError("ours")) is None


@pytest.mark.parametrize("name", ["compare", "train", "identify"])
def test_help_shows_examples_and_names_every_key(call, name):
    ended = call(name, "--help")
    assert ended.code == 0 and ended.out.count(f"python -m experiments.{name}") >= 2 and ended.err == ""


@pytest.mark.parametrize("name", ["compare", "train"])
def test_the_composed_configuration_can_be_shown(call, name, quick):
    ended = call(name, *quick, "--cfg", "job")
    assert ended.code == 0 and OmegaConf.create(ended.out).trainer.max_epochs == 2


# train and identify ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, call, quick, set_folder):
    """An identifier folder that `experiments.train` wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    ended = call(
        "train",
        *quick,
        f"runs_dir={folder}",
        "name=mine",
        "init=prototype",
        "split.held_out=0.25",
        "enrol_held_out=false",
        "fpir=0.1",
        "seed=3",
    )
    assert ended.code == 0, ended.err
    return folder / "mine" / "identifier", ended


def test_train_saves_an_identifier_with_a_threshold(trained):
    folder, ended = trained
    identifier = Identifier.load(folder)
    assert (
        len(identifier.identities) == 12 and identifier.partition.n_clusters == 2 and identifier.threshold is not None
    )
    assert "accuracy" in ended.out and str(folder)[-20:] in ended.out.replace("\n", "")


def test_the_threshold_lets_the_stated_share_of_unknown_persons_pass(trained, set_folder):
    folder, _ = trained
    identifier, data = Identifier.load(folder), EmbeddingSet.open(set_folder)
    unknown = ~np.isin(np.array(data.identities)[data.labels], identifier.identities)
    assert unknown.sum() >= 20
    accepted = identifier.identify(data.embeddings[unknown]).index >= 0
    assert 0 < accepted.mean() <= 0.1


@pytest.mark.parametrize("kind", ["set", "npy", "float16 npy"])
def test_identify_writes_what_the_identifier_says(trained, call, tmp_path, set_folder, kind):
    data = EmbeddingSet.open(set_folder)
    source, embeddings = set_folder, data.embeddings
    if kind != "set":
        source = tmp_path / "probes.npy"
        embeddings = data.embeddings[::3].astype(np.float16 if "16" in kind else np.float64)
        np.save(source, embeddings)
    ended = call("identify", f"identifier={trained[0]}", f"embeddings={source}", f"out={tmp_path / 'names.csv'}")
    assert ended.code == 0, ended.err
    table = pd.read_csv(tmp_path / "names.csv")
    expected = Identifier.load(trained[0]).identify(embeddings)
    assert table.identity.tolist() == list(expected.identity) and table.cluster.tolist() == expected.cluster.tolist()
    np.testing.assert_allclose(table.score, expected.score, atol=1e-6)
    assert table.row.tolist() == list(range(len(table))) and "unknown" in set(table.identity)
    everybody = call(
        "identify", f"identifier={trained[0]}", f"embeddings={source}", f"out={tmp_path / 'all.csv'}", "threshold=-1"
    )
    assert everybody.code == 0 and "unknown" not in set(pd.read_csv(tmp_path / "all.csv").identity)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["identifier=/nowhere"], ["/nowhere"]),
        (["embeddings=/nowhere.npy"], ["/nowhere.npy"]),
        (["embeddings={tmp}/other_dim.npy"], ["(3, 5)", "8"]),
        (["embeddings={tmp}/nan.npy"], ["row 1"]),
        (["embeddings={tmp}/cut.npy"], ["cut.npy"]),
        (["embeddings={tmp}/strings.npy"], ["strings.npy"]),
        (["out={tmp}/taken.csv"], ["taken.csv", "overwrite"]),
        (["treshold=0.3"], ["treshold"]),
        (["device=nowhere"], ["nowhere"]),
        (["identifier={tmp}/cut"], ["identifier.safetensors"]),
        (["identifier={tmp}"], ["identifier.json"]),
    ],
    ids=str,
)
def test_identify_refuses_what_it_cannot_use(trained, call, tmp_path, arguments, words):
    np.save(tmp_path / "good.npy", np.ones((3, 8), np.float32))
    np.save(tmp_path / "other_dim.npy", np.ones((3, 5), np.float32))
    np.save(tmp_path / "nan.npy", np.array([[1] * 8, [np.nan] * 8], np.float32))
    np.save(tmp_path / "strings.npy", np.array([["a"] * 8]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-1])
    (tmp_path / "taken.csv").write_text("mine")
    shutil.copytree(trained[0], tmp_path / "cut")
    (tmp_path / "cut" / "identifier.safetensors").write_bytes(b"")
    base = {"identifier": trained[0], "embeddings": tmp_path / "good.npy", "out": tmp_path / "names.csv"}
    given = [f"{key}={value}" for key, value in base.items() if not any(a.startswith(f"{key}=") for a in arguments)]
    call("identify", *given, *(argument.format(tmp=tmp_path) for argument in arguments)).assert_refused(*words)
    assert not (tmp_path / "names.csv").exists() and (tmp_path / "taken.csv").read_text() == "mine"


def test_identify_replaces_a_file_only_when_told_to(trained, call, tmp_path, set_folder):
    (tmp_path / "taken.csv").write_text("mine")
    arguments = (f"identifier={trained[0]}", f"embeddings={set_folder}", f"out={tmp_path / 'taken.csv'}")
    assert call("identify", *arguments, "overwrite=true").code == 0
    assert "identity" in (tmp_path / "taken.csv").read_text()


def test_train_does_not_overwrite_an_identifier(trained, call, quick, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years")
    call("train", *quick, f"runs_dir={tmp_path / 'runs'}", f"out={tmp_path / 'there'}").assert_refused("there")
    assert_nothing_left(tmp_path)


def test_too_few_unknown_persons_for_the_rate_are_noticed_before_training(call, quick, tmp_path):
    arguments = (
        *quick,
        f"runs_dir={tmp_path / 'runs'}",
        "name=mine",
        "split.held_out=0.1",
        "enrol_held_out=false",
        "fpir=0.001",
    )
    call("train", *arguments).assert_refused("fpir")
    assert_nothing_left(tmp_path)


def test_what_train_noted_is_json(trained):
    content = json.loads((trained[0] / "identifier.json").read_text())
    assert content["provenance"]["dataset"] == "toy" and content["provenance"]["partitioner"] == "kmeans"
