# SPDX-License-Identifier: MIT
"""evaluate=validation: every result comes from validation images, and says so; optimisers get it as a number."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.experimental.callback import Callback
from sklearn.metrics import f1_score
from sklearn.preprocessing import normalize

from datamodules.embedding_set import EmbeddingSet
from datamodules.splits import split_identities
from experiments.comparison.coordinator import Cell
from lightning_modules.decisions.metric import Metric

CELL = Cell(16, 2, 0)


class Kept(Callback):
    """Writes what Hydra's sweepers get of each run, a line each."""

    def __init__(self, out: str):
        self.out = Path(out)

    def on_job_end(self, config, job_return, **kwargs):
        with self.out.open("a") as stream:
            print(job_return.return_value, file=stream)


def f1_of_nearest_mean(folder, role: str) -> float:
    data = EmbeddingSet.open(folder)
    splits, rows_ND = split_identities(data, 16, 0), normalize(data.embeddings.astype(np.float64))
    train, probes = splits.train, getattr(splits, role)
    means_KD = normalize(np.stack([rows_ND[train.rows[train.labels == k]].mean(0) for k in range(16)]))
    answers = (rows_ND[probes.rows] @ means_KD.T).argmax(1)
    return 100 * f1_score(probes.labels, answers, labels=range(16), average="macro", zero_division=0)


def test_validation_samples_take_the_place_of_test_samples_and_the_same_networks_are_trained(coordinate):
    with coordinate("scenarios=[clustered_nearest]") as (usual, scenarios):
        before, jobs = usual.data(CELL).splits, usual.jobs(CELL, scenarios["clustered_nearest"])
    with coordinate("scenarios=[clustered_nearest]", "evaluate=validation", name="b") as (other, scenarios):
        after, again = other.data(CELL).splits, other.jobs(CELL, scenarios["clustered_nearest"])
    assert np.array_equal(after.test.rows, before.val.rows) and np.array_equal(after.test.labels, before.val.labels)
    assert np.array_equal(after.train.rows, before.train.rows) and np.array_equal(after.val.rows, before.val.rows)
    assert [job.key for job in jobs] == [job.key for job in again]


def test_a_run_computes_on_validation_images_says_so_and_is_not_continued_as_the_other(
    call, quick, tmp_path, set_folder
):
    words = (
        "compare",
        *quick,
        f"runs_dir={tmp_path}",
        "seeds=1",
        "scenarios=[knn,clustered_fused,logistic_regression,'knn,refit=train_val']",
    )
    ended = call(*words, "name=a", "evaluate=validation")
    assert ended.code == 0, ended.err
    rows = pd.read_csv(tmp_path / "a/results.csv").set_index("scenario")
    assert rows.loc["knn", "f1"] == pytest.approx(f1_of_nearest_mean(set_folder, "val"), abs=1e-4)
    assert rows.loc["knn", "f1"] != pytest.approx(f1_of_nearest_mean(set_folder, "test"), abs=1e-4)
    assert rows["dataset"].str.endswith(" (validation images)").all()
    assert rows.loc["clustered_fused", "f1"] > 0 and rows.loc["logistic_regression", "f1"] > 0
    assert math.isnan(rows.loc["knn,refit=train_val", "f1"])
    report = (tmp_path / "a/report.md").read_text()
    assert report.startswith("# ClusterFace comparison on validation images: a\n")
    (verdict,) = [line for line in report.splitlines() if line.startswith("**Verdict.**")]
    assert "(validation images) with N = 16" in verdict
    assert "Report what was chosen on test images" in report and "trained on the validation images" in report
    assert json.loads((tmp_path / "a/manifest.json").read_text())["dataset"].endswith(" (validation images)")
    call(*words, "name=a").assert_refused("evaluate = test", "validation, as ")
    ended = call(*words, "name=b")
    assert ended.code == 0, ended.err
    rows = pd.read_csv(tmp_path / "b/results.csv").set_index("scenario")
    assert rows.loc["knn", "f1"] == pytest.approx(f1_of_nearest_mean(set_folder, "test"), abs=1e-4)
    assert rows.loc["clustered_fused", "f1"] > 0 and not rows["dataset"].str.contains("validation").any()
    assert "validation images" not in (tmp_path / "b/report.md").read_text()


def test_decisions_are_fitted_without_the_images_that_they_are_judged_on(coordinate, monkeypatch):
    seen = []
    monkeypatch.setattr(Metric, "fit", lambda self, scores, *rest: seen.append(len(scores)) or self)
    for words in ([], ["evaluate=validation"]):
        with coordinate("scenarios=[knn_metric]", *words, name=f"fit{len(words)}") as (coordinator, scenarios):
            coordinator.identifier(CELL, scenarios["knn_metric"])
    assert seen[0] > 0 and seen[1] == 0


def test_a_sweeper_gets_the_mean_f1_of_the_first_scenario_and_less_for_a_run_that_failed(
    call, quick, tmp_path, monkeypatch
):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    monkeypatch.setattr("experiments.comparison.multirun.merge_reports", lambda folders, out: 0)
    out, callback = tmp_path / "returned.txt", "+hydra.callbacks.kept"
    kept = [word for word in quick if not word.startswith("n_subnets")]
    ended = call(
        "compare", *kept, f"runs_dir={tmp_path}", "name=m-${n_subnets}", "n_subnets=2,99,4", "seeds=2",
        "evaluate=validation", "scenarios=[clustered_nearest,knn]",
        f"{callback}._target_={__name__}.Kept", f"{callback}.out={out}", "-m",
    )  # fmt: skip
    assert ended.code == 2
    returned = [float(line) for line in out.read_text().split()]
    assert len(returned) == 3 and returned[1] == -math.inf
    for m, value in ((2, returned[0]), (4, returned[2])):
        rows = pd.read_csv(tmp_path / f"m-{m}/results.csv")
        own = rows.loc[rows["scenario"] == "clustered_nearest", "f1"]
        assert len(own) == 2 and value == pytest.approx(own.mean())
