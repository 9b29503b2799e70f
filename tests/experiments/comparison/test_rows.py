# SPDX-License-Identifier: MIT
"""Rows by override in `scenarios=[...]`: what they stand for, what they are called, what is refused."""

import json
import shutil

import pandas as pd
import pytest
from omegaconf import OmegaConf

from datamodules.errors import InputError
from experiments.command_line import choices
from experiments.command_line.choices import load_node
from experiments.comparison.rows import scenario_of_row, split_row
from experiments.reporting.methods import scenario_title, titles_of

ROWS = ["clustered_nearest", "loss.margin=0.3", "loss=cosface,trainer.max_epochs=1", "optimizer.betas=[0.8,0.9]"]
TITLES = {
    "clustered_nearest": "Clustered + nearest class",
    "loss.margin=0.3": "Clustered + nearest class, loss.margin=0.3",
    "loss=cosface,trainer.max_epochs=1": "Clustered + nearest class, loss=cosface, trainer.max_epochs=1",
    "optimizer.betas=[0.8,0.9]": "Clustered + nearest class, optimizer.betas=[0.8,0.9]",
}


@pytest.fixture(scope="module")
def cfg(compose):
    return compose("compare", "data=embedding_set")


@pytest.fixture(scope="module")
def run(tmp_path_factory, call, quick):
    """The folder of a comparison of `ROWS`, and the call that made it."""
    folder = tmp_path_factory.mktemp("rows")
    arguments = (*quick, f"runs_dir={folder}", "name=toy", "seeds=1", f"scenarios={json.dumps(ROWS)}")
    ended = call("compare", *arguments)
    assert ended.code == 0, ended.err
    return folder / "toy", arguments


def test_only_what_is_overridden_differs_from_the_scenario_named_first(cfg):
    base, row = (
        scenario_of_row("clustered_nearest_fast", cfg),
        scenario_of_row("clustered_nearest_fast,loss.margin=0.3", cfg),
    )
    assert row.nodes["loss"] == {**base.nodes["loss"], "margin": 0.3} and row.names["loss"] == "arcface(margin=0.3)"
    assert {**row.nodes, "loss": base.nodes["loss"]} == base.nodes and row.trainer == base.trainer
    assert row.name == "clustered_nearest_fast,loss.margin=0.3"


def test_without_a_scenario_the_row_is_the_proposal_on_what_the_command_line_selects(compose):
    cfg = compose("compare", "data=embedding_set", "loss=cosface", "loss.scale=32", "partitioner=random")
    row, proposal = scenario_of_row("loss.margin=0.3", cfg), scenario_of_row("clustered_nearest", cfg)
    assert row.nodes["loss"] == {**OmegaConf.to_container(load_node("loss", "cosface")), "scale": 32, "margin": 0.3}
    assert {**row.nodes, "loss": proposal.nodes["loss"]} == proposal.nodes


def test_several_overrides_go_together_in_any_order_files_first(cfg):
    one = scenario_of_row("loss.margin=0.2, loss=cosface,router=max_output,trainer.max_epochs=3", cfg)
    assert one.nodes["loss"] == {**OmegaConf.to_container(load_node("loss", "cosface")), "margin": 0.2}
    assert one.names["router"] == "max_output" and one.trainer == {"max_epochs": 3}
    other = scenario_of_row("trainer.max_epochs=3,router=max_output,loss=cosface,loss.margin=0.2", cfg)
    assert (other.nodes, other.trainer) == (one.nodes, one.trainer) and other.name != one.name


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 0.001), ("2", 2), ("[0.8,0.95]", [0.8, 0.95]), ("false", False), ("null", None), ("'3'", "3")],
)
def test_values_have_the_types_of_yaml(cfg, text, value):
    key = {list: "betas", bool: "fused"}.get(type(value), "lr")
    (part,) = split_row(f"optimizer.{key}={text}")
    if text in ("null", "'3'"):  # no learning rate; that it is refused shows what arrived
        with pytest.raises((InputError, ValueError), match=f"{key}': {value!r}"):
            scenario_of_row(part, cfg)
    else:
        found = scenario_of_row(part, cfg).nodes["optimizer"][key]
        assert found == value and type(found) is type(value)


def test_every_row_is_trained_by_itself_and_has_its_own_titles(run):
    folder, _ = run
    results = pd.read_csv(folder / "results.csv").set_index("scenario")
    assert sorted(results.index) == sorted(ROWS) and results.loc["loss.margin=0.3", "loss"] == "arcface(margin=0.3)"
    assert results.epochs.to_dict() == dict.fromkeys(ROWS, 2) | {"loss=cosface,trainer.max_epochs=1": 1}
    assert len(list((folder / "subnetworks").iterdir())) == len(ROWS)
    assert len(list((folder / "partitions").iterdir())) == 1
    titles = pd.read_csv(folder / "details/scenarios.csv").set_index("scenario")["title"].to_dict()
    assert titles == TITLES
    report = (folder / "report.html").read_text()
    assert all(report.count(title) >= 2 for title in TITLES.values())  # tables and legends of figures' tables
    history = pd.read_csv(folder / "details/history.csv")
    assert set(history.scenario_partition) == {"kmeans", *ROWS[1:]}


def test_what_is_trained_for_two_rows_is_told_apart_on_a_dashboard(run, coordinate):
    with coordinate(f"scenarios={json.dumps(ROWS)}") as (coordinator, made):
        from experiments.comparison.coordinator import Cell

        titles = [job.title for one in made.values() for job in coordinator.jobs(Cell(16, 2, 0), one)]
    assert len(set(titles)) == 2 * len(ROWS)
    assert titles[4] == "toy N=16 kmeans m=2 cosface max_epochs=1 seed 0 cluster 0"


def test_a_repeated_command_trains_nothing_and_a_title_that_changed_is_shown(run, call, monkeypatch, tmp_path):
    folder, arguments = run
    before = (folder / "results.csv").read_text()
    monkeypatch.setattr("experiments.comparison.coordinator.train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    assert call("compare", *arguments).code == 0
    assert (folder / "results.csv").read_text() == before
    shutil.copytree(choices.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(choices, "CONFIGS", tmp_path / "configs")
    file = tmp_path / "configs/scenario/clustered_nearest.yaml"
    file.write_text(file.read_text().replace("title: Clustered + nearest class", "title: Ours"))
    assert call("compare", *arguments).code == 0
    titles = pd.read_csv(folder / "details/scenarios.csv")["title"]
    assert sorted(titles) == sorted(title.replace("Clustered + nearest class", "Ours") for title in TITLES.values())


def test_reports_call_scenarios_by_the_titles_of_their_run_and_keep_them_apart():
    names = ["clustered_nearest", "mine", "loss.margin=0.3", "ism"]
    titles = ["Ours", "Ours", "Ours, loss.margin=0.3", "Independent"]
    with titles_of({"scenarios": pd.DataFrame({"scenario": names, "title": titles})}):
        found = [scenario_title(name) for name in (*names, "knn")]
    assert found == ["Ours (clustered_nearest)", "Ours (mine)", *titles[2:], "KNN (class means)"]
    assert scenario_title("ism") == "ISM (random + max-max)"


def test_a_row_whose_value_has_a_slash_leaves_a_file(coordinate):
    from experiments.comparison.cells import cell_file
    from experiments.comparison.coordinator import Cell

    with coordinate() as (coordinator, _):
        files = {cell_file(coordinator, Cell(16, 2, 0), f"init.path={name}") for name in ("a/b", "a_b", "a/" * 200)}
        assert len(files) == 3 and {file.parent for file in files} == {coordinator.run.path / "cells"}
        assert max(len(file.name) for file in files) < 255


def test_rows_without_quotes_of_their_own_are_answered_with_how_to_quote_them(call, quick, tmp_path):
    ended = call("compare", *quick, f"runs_dir={tmp_path}/runs", "scenarios=[knn,loss.margin=0.3]")
    ended.assert_refused("""'scenarios=[knn,"loss.margin=0.3"]'""")


@pytest.mark.parametrize(
    "row, words",
    [
        ("los.margin=0.3", ["'los'", "did you mean loss?"]),
        ("los=cosface", ["'los'", "did you mean loss?"]),
        ("seeds=3", ["'seeds'"]),
        ("loss=cosfase", ["cosfase", "did you mean cosface?"]),
        ("loss.margn=0.3", ["loss.margn", "scale, margin", "did you mean margin?"]),
        ("loss._target_=os.system", ["_target_"]),
        ("optimizer.learning_rate=0.1", ["learning_rate", "betas"]),
        ("loss.margin=2", ["margin 2"]),
        ("loss.margin=wide", ["ArcFace"]),
        ("loss.margin=[0.3", ["0.3"]),
        ("loss.margin=${nothing}", ["nothing"]),
        ("loss=cosface,loss=arcface", ["each key once"]),
        ("trainer.max_epoch=3", ["max_epoch", "did you mean max_epochs?"]),
        ("trainer.devices=2", ["trainer.devices", "max_epochs"]),
        ("trainer.max_epochs=many", ["max_epochs", "many"]),
        ("trainer=fast", ["'trainer'"]),
        ("clustered_nearest_fst,loss.margin=0.3", ["clustered_nearest_fst", "did you mean clustered_nearest_fast?"]),
        ("clustered_nearst", ["did you mean clustered_nearest?"]),
        ("faiss_ivf,loss.margin=0.3", ["faiss_ivf", "clustered_nearest"]),
        ("knn,router.score=cosine", ["router.score", "router=..."]),
        ("losss=*", ["did you mean loss?"]),
    ],
)
def test_what_no_row_can_be_is_refused_and_nothing_is_written(call, quick, tmp_path, row, words):
    rows = json.dumps(["knn", row]).replace("$", "\\$")
    call("compare", *quick, f"runs_dir={tmp_path}/runs", f"scenarios={rows}").assert_refused(*words)
    assert not (tmp_path / "runs").exists()
