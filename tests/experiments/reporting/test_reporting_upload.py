# SPDX-License-Identifier: MIT
"""A finished comparison on Weights & Biases: one run of type "report" in its group, once, whole when sent later."""

import json

import pandas as pd
import pytest
import yaml

from datamodules.files import write_json
from experiments.report import main
from experiments.reporting.runs import read_run
from experiments.reporting.summary_table import summary_table
from tests.experiments.offline_runs import offline_runs

TWO = ("ism", "clustered_nearest")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


@pytest.fixture
def finished(make_run):
    folder = make_run(sizes=(1000,), seeds=(0, 1), scenarios=TWO)
    config = {"logger": {"_target_": "x", "project": "faces", "entity": None, "tags": ["mine"]}, "seeds": 2}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "manifest.json", {"provenance": {"git_commit": "0123456789"}})
    return folder


def test_a_comparison_is_one_run_with_tables_figures_and_the_report(finished, capsys):
    for _ in range(2):  # the second takes the place of the first
        assert main([str(finished), "--wandb"]) == 0
    (run,) = offline_runs(finished)
    assert f"Weights & Biases: {finished}/wandb/offline-run-" in capsys.readouterr().out
    assert (run["group"], run["type"], run["name"], run["project"]) == ("run", "report", "run report", "faces")
    assert {"mine", "made_up", "N=1000", "arcface"} <= set(run["tags"])
    assert run["config"]["seeds"] == 2 and run["config"]["provenance"] == {"git_commit": "0123456789"}
    assert run["logged"]["report/_type"] == "html-file"
    drawn = {f"figures/{file.stem}" for file in (finished / "figures").glob("*.png")}
    assert drawn and {f"{name}/_type" for name in drawn} <= set(run["logged"])
    results = read_run(finished).results
    assert run["logged"]["tables/results/nrows"] == len(results) == 4
    assert run["logged"]["tables/summary/nrows"] == 2
    mean = results[results["scenario"] == "ism"]["f1"].mean()
    assert run["summary"]["f1_percent/N=1000/ism"] == pytest.approx(mean)
    assert {"results.csv", "report.html", "report.md", "config.yaml", "manifest.json"} <= set(run["files"])
    folder = next((finished / "wandb").glob("offline-run-*"))
    table = json.loads(next(folder.rglob("summary*.table.json")).read_text())
    assert all("None" not in row and "nan" not in str(row).lower() for row in table["data"])


def test_another_project_can_be_named(finished):
    assert main([str(finished), "--wandb", "--project", "other"]) == 0
    assert [run["project"] for run in offline_runs(finished)] == ["other"]


def test_a_project_alone_is_refused(finished, capsys):
    assert main([str(finished), "--project", "other"]) == 2
    assert "--wandb" in capsys.readouterr().err and not (finished / "wandb").exists()


def test_the_summary_table_has_units_in_its_names_and_the_numbers_of_pandas(make_run):
    results = read_run(make_run(sizes=(1000,), seeds=(0, 1, 2), scenarios=(*TWO, "knn"))).results
    table = summary_table(results).set_index("scenario")
    f1 = results.pivot(index="seed", columns="scenario", values="f1")
    assert table.loc["knn", "f1_percent"] == pytest.approx(f1["knn"].mean())
    assert table.loc["knn", "f1_sd_points"] == pytest.approx(f1["knn"].std())
    gain = f1["clustered_nearest"] - f1["ism"]
    assert table.loc["clustered_nearest", "f1_minus_ism_points"] == pytest.approx(gain.mean())
    half = 4.302653 * gain.std() * (1 / 3 + 4 / 12) ** 0.5  # t with two degrees of freedom, 97.5 %
    assert table.loc["clustered_nearest", "f1_minus_ism_high_points"] == pytest.approx(gain.mean() + half, rel=1e-6)
    assert pd.isna(table.loc["ism", "f1_minus_ism_points"])
    units = ("_percent", "_points", "_seconds", "_microseconds", "_serial", "_parallel", "_mb", "_times")
    plain = {"data", "n_identities", "method", "n_subnets", "seeds"}
    assert [name for name in table if name not in plain and not name.endswith(units)] == []
