# SPDX-License-Identifier: MIT
"""Multiruns: one command for several runs; a cell that fails is named and costs no other."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from experiments.comparison import coordinator

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "experiments" / "configs"
SWEEPS = sorted(file.stem for file in (CONFIGS / "sweep").glob("*.yaml"))


@pytest.fixture
def sweep(tmp_path, call, quick, monkeypatch):
    """`sweep("sweep=m", ...)`: runs it in `tmp_path` without report."""
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    kept = [argument for argument in quick if not argument.startswith(("n_subnets", "data=embedding_set"))]
    return lambda *more: call("compare", *kept, f"runs_dir={tmp_path}", "seeds=1", *more)


def test_a_sweep_goes_past_a_cell_that_fails_and_names_it(sweep, tmp_path):
    ended = sweep("sweep=m", "n_subnets=2,99,4", "scenarios=[clustered_nearest]")
    assert ended.code == 2
    named = [line for line in ended.err.splitlines() if line.startswith("failed with exit code 2: ")]
    assert len(named) == 1 and "n_subnets=99" in named[0]
    for m in (2, 4):
        assert pd.read_csv(tmp_path / f"sweep-m-{m}" / "results.csv").n_subnets.tolist() == [m]
    assert not (tmp_path / "sweep-m-99").exists()


def test_a_repeated_sweep_trains_nothing_again(sweep, monkeypatch):
    arguments = ("sweep=m", "n_subnets=2,4", "scenarios=[clustered_nearest]")
    assert sweep(*arguments).code == 0
    monkeypatch.setattr(coordinator, "train", lambda *_: pytest.fail("trained again"))
    assert sweep(*arguments).code == 0


def test_a_stop_ends_the_whole_sweep(sweep, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator, "train", stop)
    assert sweep("sweep=m", "n_subnets=2,4", "scenarios=[clustered_nearest]").code == 130
    assert not (tmp_path / "sweep-m-4").exists()


def test_routers_and_decisions_are_compared_in_pairs_on_one_training(sweep, tmp_path):
    ended = sweep("sweep=router_decision", "n_subnets=2", "scenarios=[ism,'router=*,decision=argmax']")
    assert ended.code == 0, ended.err
    results = pd.read_csv(tmp_path / "sweep-router-decision" / "results.csv")
    assert {"router=cluster_mean,decision=argmax", "router=max_output,decision=argmax"} <= set(results.scenario)
    assert len(list((tmp_path / "sweep-router-decision" / "subnetworks").glob("*/?????.safetensors"))) == 2 + 2


def test_no_distribution_is_trained_once_for_all_m_and_the_runs_are_merged(sweep, monkeypatch, tmp_path):
    trained, train = [], coordinator.train
    monkeypatch.setattr(coordinator, "train", lambda job, *more: (trained.append(job.title), train(job, *more)))
    arguments = ("sweep=m", "n_subnets=2,4", "scenarios=[no_distribution,clustered_nearest]")
    ended = sweep(*arguments)
    assert ended.code == 0, ended.err
    assert len(trained) == 1 + 2 + 4 == len(set(trained))
    results = pd.read_csv(tmp_path / "sweep-m" / "results.csv")
    assert sorted(zip(results.scenario, results.n_subnets, strict=True)) == [
        ("clustered_nearest", 2), ("clustered_nearest", 4), ("no_distribution", 1),
    ]  # fmt: skip
    assert (tmp_path / "sweep-m" / "report.html").is_file() and "report of all 2 runs" in ended.out
    assert sweep(*arguments).code == 0 and len(trained) == 7  # the merged report is drawn again


@pytest.mark.parametrize(
    ("key", "values", "default"), [("loss.margin", (0.3, 0.5), "0.5"), ("optimizer.lr", (0.001, 0.004), "0.001")]
)
def test_values_of_a_number_are_an_axis_with_the_default_in_its_place(sweep, tmp_path, key, values, default):
    swept = f"{key}={','.join(map(str, values))}"
    ended = sweep("data=embedding_set", swept, "n_subnets=2", "scenarios=[ism,knn]", "-m")
    assert ended.code == 0, ended.err
    (merged,) = tmp_path.glob(f"sweep-{key}-*")
    section = (merged / "report.md").read_text().partition("## Sweep")[2].partition("## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert rows[0][:2] == ["Scenario", key]
    assert [row[:2] for row in rows[1:]] == [["ISM (random + max-max)", f"{value:g}"] for value in values]
    assert default in [row[1] for row in rows]


@pytest.mark.parametrize("name", SWEEPS)
def test_each_ablation_is_also_a_sweep_of_weights_and_biases(name):
    content = OmegaConf.to_container(OmegaConf.load(ROOT / "experiments" / "sweeps" / f"{name}.yaml"), resolve=False)
    assert content["method"] == "grid" and "experiments.compare" in content["command"]
    ((key, parameter),) = content["parameters"].items()
    if key in ("loss", "partitioner"):
        files = {file.stem for file in (CONFIGS / key).glob("*.yaml")} - {"single"}
        assert set(parameter["values"]) == files
    if name == "router_decision":
        pairs = [
            f'["router={router.stem},decision={decision.stem}"]'
            for router in (CONFIGS / "router").glob("*.yaml") for decision in (CONFIGS / "decision").glob("*.yaml")
            if decision.stem != "nearest_mean"
        ]  # fmt: skip
        assert sorted(parameter["values"]) == sorted(pairs)
