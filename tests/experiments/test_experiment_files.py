# SPDX-License-Identifier: MIT
"""experiment=NAME: its values stand over the defaults and under the command line, and no key of it is lost."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.command_line import command as frame
from experiments.comparison.rows import scenario_of_row

CONFIGS = Path(__file__).resolve().parents[2] / "experiments/configs"


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """`experiment(text)`: writes configs/experiment/mine.yaml into a copy of the configuration folder."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(frame, "CONFIGS", tmp_path / "configs")
    file = tmp_path / "configs/experiment/mine.yaml"
    return lambda text: file.write_text(f"# @package _global_\n# mine: python -m experiments.compare\n{text}")


def test_the_paper_s_recipe_is_what_the_paper_states(compose):
    for name in ("compare", "train"):
        cfg = compose(name, "experiment=paper")
        assert (cfg.trainer.max_epochs, cfg.trainer.batch_size, cfg.optimizer.lr) == (50, 256, 0.001)
        assert list(cfg.optimizer.betas) == [0.9, 0.99] and (cfg.loss.scale, cfg.loss.margin) == (64.0, 0.5)
        assert cfg.loss._target_.endswith(".ArcFace") and cfg.init._target_.endswith(".RandomInit")
    paper = {"no_distribution", "ism", "random_nearest", "knn", "clustered_maxmax", "clustered_nearest"}
    assert set(compose("compare", "experiment=paper").scenarios) == paper


def test_the_fast_recipe_is_that_of_the_fast_scenarios(compose):
    fast = compose("compare", "experiment=fast")
    row, named = (
        scenario_of_row("clustered_nearest", fast),
        scenario_of_row("clustered_nearest_fast", compose("compare")),
    )
    assert row.nodes == named.nodes
    assert {key: fast.trainer[key] for key in named.trainer} == named.trainer
    assert compose("train", "experiment=fast").trainer == fast.trainer


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_both(compose):
    cfg = compose("compare", "experiment=fast", "trainer.max_epochs=7", "init=random", "suite=all")
    assert cfg.trainer.max_epochs == 7 and cfg.trainer.batch_size == 1024
    assert cfg.init._target_.endswith(".RandomInit") and cfg.scenarios == "all"
    for name in ("compare", "train"):  # what the root file itself may say one day must lose too
        listed = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))["defaults"]
        assert listed.index("_self_") < listed.index({"experiment": None})


def test_an_experiment_of_one_s_own_is_run(experiment, call, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    experiment("seeds: [4]\nscenarios: [knn, 'clustered_nearest,loss.margin=0.1']\nloss: {scale: 20.0}\nn_subnets: 3\n")
    ended = call("compare", *quick, f"runs_dir={tmp_path}/runs", "name=mine", "experiment=mine")
    assert ended.code == 0, ended.err
    cells = sorted(file.name for file in (tmp_path / "runs/mine/cells").iterdir())
    # quick says n_subnets=2: the command line wins
    assert cells == [f"N16-m2-seed4-{name}.json" for name in ("clustered_nearest,loss.margin=0.1", "knn")]
    assert "(scale=20.0" in (tmp_path / "runs/mine/results.csv").read_text()


@pytest.mark.parametrize(
    "text, word",
    [
        ("trainr: {max_epochs: 3}", "trainr"),
        ("trainr.max_epochs: 3", "trainr"),
        ("trainer: {max_epoch: 3}", "max_epoch"),
        ("trainer.max_epochs: 3", "trainer.max_epochs"),
        ("loss: {margn: 0.3}", "margn"),
        ("defaults: [override /init: discriminant]\ninit: {strenth: 0.3}", "strenth"),
        ("optimizer: {rl: 0.3}", "rl"),
        ("partitioner: {n_nit: 0.3}", "n_nit"),
        ("defaults: [override /active_classes: sampled]\nactive_classes: {sample_rat: 0.3}", "sample_rat"),
        ("data: {pth: x}", "pth"),
        ("launcher: {workrs: 2}", "InProcess() takes no arguments"),
        ("logger: {project_name: x}", "NoTracking() takes no arguments"),
        ("split: {held_ot: 0.1}", "held_ot"),
        ("scenario: [ism]", "scenario"),
        ("defaults: [override /los: cosface]", "los"),
        ("defaults: [override /loss: cosfase]", "cosfase"),
        ("scenarios: [knn, 'loss.margn=0.3']", "margn"),
    ],
)
def test_a_misspelt_key_of_an_experiment_file_is_refused(experiment, call, quick, tmp_path, text, word):
    experiment(text + "\n")
    call("compare", *quick, f"runs_dir={tmp_path}/runs", "experiment=mine").assert_refused(word)
    assert not (tmp_path / "runs").exists()


def test_an_experiment_that_is_not_there_is_refused_with_those_that_are(call, quick, tmp_path):
    ended = call("compare", *quick, f"runs_dir={tmp_path}/runs", "experiment=papr")
    ended.assert_refused("papr", "paper", "fast")


@pytest.mark.parametrize("file", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_experiment_file_names_its_command_and_runs(file, call, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    _, first, *_ = file.read_text().splitlines()
    command = first.partition(": python -m experiments.")[2].split()
    assert command[1:] == [f"experiment={file.stem}"]
    arguments = ("scenarios=[clustered_nearest]", "seeds=1") if command[0] == "compare" else ()
    ended = call(*command, *quick, f"runs_dir={tmp_path}", "name=mine", *arguments)
    assert ended.code == 0, ended.err
