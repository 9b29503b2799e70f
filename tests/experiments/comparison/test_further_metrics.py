# SPDX-License-Identifier: MIT
"""A metric of one's own, one Python file and one YAML, from `metrics=[...]` to every place that shows numbers."""

import re
import shutil

import pandas as pd
import pytest

from experiments.command_line import choices
from experiments.comparison import coordinator
from experiments.report import main as report
from experiments.reporting.runs import read_run
from experiments.runs.tracking import summary_values
from tests.experiments.offline_runs import offline_runs

CODE = """
from lightning_modules.metrics.base import Metric

class Failures(Metric):
    name, unit, title, digits, higher_is_better = "failures", "probes", "Failures", 1, False

    def __init__(self, at_least: float = -9.0):
        self.at_least, self.count = at_least, 0

    def update(self, answer, truth_B):
        self.count += int(((answer.identity_B != truth_B) & (answer.score_B >= self.at_least)).sum())

    def compute(self):
        return self.count

class NoMetric:
    pass

class Misnamed(Failures):
    name = "f1"

class OutOfRange(Failures):
    unit = "percent"

    def compute(self):
        return -1.0

class Inapplicable(Failures):
    name = "inapplicable"

    def compute(self):
        return float("nan")
"""
SCENARIOS = ["no_distribution", "knn", "faiss_ivf"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Files of my own beside the project's; commands find them by their names."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/metrics_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    configs = tmp_path / "configs"
    shutil.copytree(choices.CONFIGS, configs)
    for name in ("Failures", "NoMetric", "Misnamed", "OutOfRange", "Inapplicable"):
        (configs / f"metric/{name.lower()}.yaml").write_text(f"# Mine\n_target_: metrics_of_mine.{name}\n")
    monkeypatch.setattr(choices, "CONFIGS", configs)


@pytest.fixture
def compare(tmp_path, call, quick):
    """`compare("metrics=[...]", ...)` under the name `run`, unless told otherwise."""
    return lambda *more: call(
        "compare",
        *quick,
        "seeds=2",
        f"scenarios={SCENARIOS}".replace("'", ""),
        f"runs_dir={tmp_path}",
        "name=run",
        *more,
    )


def test_it_is_in_results_tables_terminal_and_dashboards(mine, compare, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ended = compare("metrics=[failures]", "logger=wandb")
    assert ended.code == 0, ended.err
    results = pd.read_csv(tmp_path / "run/results.csv")
    assert list(results.columns)[-2:] == ["test_samples", "failures"]
    # All probes of the toy set: 16 identities, as many in each row, so that failures follow from the accuracy.
    probes = (results.failures / (1 - results.accuracy / 100)).dropna().round()
    assert probes.nunique() == 1 and results.failures.gt(0).any()
    assert (results.failures - probes.iloc[0] * (1 - results.accuracy / 100)).abs().max() < 1e-6

    mean = results.groupby("scenario").failures.mean()
    text = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    table, differences = (part for part in text.split("\n\n") if part.startswith("|") and "Failures (probes)" in part)
    spread = results[results.scenario == "knn"].failures.std()
    assert f"{mean.knn:.1f} ± {spread:.1f}" in next(line for line in table.splitlines() if "KNN" in line)
    (bold,) = {float(found) for found in re.findall(r"\*\*(\d+\.\d) ±", table)}  # the fewest; percent has two decimals
    assert bold == round(mean.min(), 1)
    gain = mean.knn - mean.no_distribution
    assert f"{gain:+.1f} [".replace("-", "−") in differences
    assert "Failures" in ended.out and f"{mean.knn:.1f}±{spread:.1f}" in ended.out

    for values in (summary_values(read_run(tmp_path / "run").results), offline_summary(tmp_path / "run")):
        assert values["failures_probes/N=16/knn"] == pytest.approx(mean.knn)
        assert values["failures_probes/N=16/faiss_ivf"] == pytest.approx(mean.faiss_ivf)
        assert values["f1_percent/N=16/knn"] == pytest.approx(results[results.scenario == "knn"].f1.mean())


def offline_summary(folder):
    (summary,) = [run["summary"] for run in offline_runs(folder) if run["type"] == "summary"]
    return summary


def test_what_was_evaluated_without_it_is_evaluated_again_and_nothing_is_trained(
    mine, compare, tmp_path, monkeypatch, no_report
):
    assert compare().code == 0
    before = pd.read_csv(tmp_path / "run/results.csv")
    assert "failures" not in before

    def train(job, data, report=None):
        raise AssertionError(f"{job.title} is trained again")

    monkeypatch.setattr(coordinator, "train", train)
    assert compare("metrics=[failures,confident_accuracy]").code == 0
    after = pd.read_csv(tmp_path / "run/results.csv")
    assert list(after.columns)[-2:] == ["failures", "accuracy_surest_90"]
    assert after.failures.notna().all() and after.f1.tolist() == before.f1.tolist()
    assert compare().code == 0
    assert list(pd.read_csv(tmp_path / "run/results.csv").columns) == list(before.columns)
    assert list(read_run(tmp_path / "run").results.columns[:-2]) == list(before.columns)


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)


def test_runs_with_and_without_it_are_merged(mine, compare, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
        assert compare("metrics=[failures]", "scenarios=[knn]", "name=a").code == 0
        assert compare("scenarios=[knn]", "seeds=[2,3]", "name=b").code == 0
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert report([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both"), "--wandb"]) == 0
    merged = read_run(tmp_path / "both").results
    assert merged.failures.notna().tolist() == [True, True, False, False]
    mean = merged.failures.mean()
    assert f"{mean:.1f}" in (tmp_path / "both/report.md").read_text(encoding="utf-8")
    (sent,) = offline_runs(tmp_path / "both")
    assert sent["summary"]["failures_probes/N=16/knn"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("[top6]", ("metric 'top6'", "confident_accuracy")),
        ("[nometric]", ("metric nometric", "below Metric")),
        ("[misnamed]", ("'f1'", "no other column")),
        ("[failures,failures]", ("'failures'", "each once")),
    ],
)
@pytest.mark.parametrize("command", ["compare", "train"])
def test_what_is_no_metric_is_refused_and_nothing_is_written(mine, call, quick, tmp_path, command, metrics, said):
    call(command, *quick, f"runs_dir={tmp_path / 'runs'}", f"metrics={metrics}").assert_refused(*said)
    assert not (tmp_path / "runs").exists()


def test_a_name_without_brackets_is_refused_in_one_line(compare, tmp_path):
    ended = compare("metrics=failures")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "metrics" in ended.err
    assert not (tmp_path / "run").exists()


def test_percent_out_of_range_is_refused_and_a_number_that_does_not_apply_is_blank(mine, compare, tmp_path, no_report):
    compare("metrics=[outofrange]", "scenarios=[knn]").assert_refused("failures = -1.0", "0 to 100")
    assert compare("metrics=[inapplicable]", "scenarios=[knn]", "name=other").code == 0
    assert pd.read_csv(tmp_path / "other/results.csv").inapplicable.isna().all()
    assert read_run(tmp_path / "other").results.inapplicable.isna().all()


def test_train_says_it_too(call, quick, tmp_path):
    ended = call(
        "train", *quick, f"runs_dir={tmp_path}", "name=one", "metrics=[confident_accuracy]", "scenario=knn"
    )  # fmt: skip
    assert ended.code == 0 and re.search(r"f1 \d+\.\d\d %, accuracy_surest_90 \d+\.\d\d %", ended.out), ended.out
