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
