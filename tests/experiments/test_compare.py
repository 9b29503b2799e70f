# SPDX-License-Identifier: MIT
"""`experiments.compare` from one end to the other, on 16 identities and two epochs."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from datamodules.embedding_set import EmbeddingSet
from datamodules.files import sha256
from datamodules.splits import split_identities
from experiments.comparison import cells, coordinator

COLUMNS = (
    "dataset,extractor,n_identities,n_subnets,scenario,partitioner,loss,init,router,decision,seed,accuracy,precision,"
    "recall,f1,cluster_accuracy_train,cluster_accuracy_test,epochs,epoch_seconds_serial,epoch_seconds_parallel,"
    "train_seconds,peak_memory_mb,query_microseconds,parameters,train_samples,test_samples"
).split(",")
MEASURED = [name for name in COLUMNS if "seconds" in name or "memory" in name]
SCENARIOS = ["clustered_maxmax", "clustered_nearest", "ism", "knn", "no_distribution", "random_nearest"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, call, quick):
    """Two runs of the same command in different folders, the second without a report; and what the first printed."""
    folders, ends = [], []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("one", "other"):
            runs_dir = tmp_path_factory.mktemp(name)
            ends.append(call("compare", *quick, f"runs_dir={runs_dir}", "name=toy", "seeds=2"))
            assert ends[-1].code == 0, ends[-1].err
            folders.append(runs_dir / "toy")
            patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
    return *folders, ends[0]


@pytest.fixture(scope="module")
def results(runs):
    return pd.read_csv(runs[0] / "results.csv")


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes seconds and is not what these tests are about."""
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)


@pytest.fixture
def no_training(monkeypatch):
    def train(job, data, report=None):
        raise AssertionError(f"{job.title} is trained again")

    monkeypatch.setattr(coordinator, "train", train)


def test_results_have_the_stated_columns_and_a_row_per_scenario_and_seed(results):
    assert list(results.columns) == COLUMNS
    assert sorted(zip(results.scenario, results.seed, strict=True)) == [
        (name, seed) for name in SCENARIOS for seed in (0, 1)
    ]
    assert set(results.dataset) == {"toy"} and set(results.n_identities) == {16}
    assert results.train_samples.nunique() == 1 and (results.train_samples > results.test_samples).all()


def test_each_row_says_what_was_built(results):
    rows = results[results.seed == 0].set_index("scenario")
    assert rows.n_subnets.to_dict() == {name: 1 if name in ("knn", "no_distribution") else 2 for name in SCENARIOS}
    said = rows[["partitioner", "loss", "init", "router", "decision"]].fillna("").T.to_dict("list")
    assert said["clustered_nearest"] == ["kmeans", "arcface", "random", "nearest_class", "argmax"]
    assert said["ism"] == ["random", "arcface", "random", "max_output", "argmax"]
    assert said["no_distribution"] == ["single", "arcface", "random", "", "argmax"]
    assert said["knn"] == ["", "", "", "", "nearest_mean"]
    trained = rows.drop("knn")
    assert (trained.epochs == 2).all() and (trained.parameters == 16 * 8).all() and rows.loc["knn"].isna()["parameters"]
    assert (trained.epoch_seconds_parallel <= trained.epoch_seconds_serial).all()
    single = rows.loc["no_distribution"]
    assert single.epoch_seconds_parallel == single.epoch_seconds_serial


def test_rates_are_percentages_and_nearest_stays_under_its_cluster_accuracy(results):
    rates = results[["accuracy", "precision", "recall", "f1"]]
    assert ((rates >= 0) & (rates <= 100)).all(axis=None)
    for name in ("clustered_nearest", "random_nearest"):
        rows = results[results.scenario == name]
        assert (rows.accuracy <= rows.cluster_accuracy_test + 1e-6).all()
    knn = results[results.scenario == "knn"]
    assert knn.cluster_accuracy_test.isna().all() and (knn.accuracy > 50).all()


def test_the_knn_row_is_what_scikit_learn_finds(results, set_folder):
    data = EmbeddingSet.open(set_folder)
    for seed in (0, 1):
        splits = split_identities(data, seed=seed)
        unit = normalize(data.embeddings.astype(np.float64))
        # Unit class means: the centroid of least distance is that of the highest cosine once it has length 1.
        centroids = NearestCentroid().fit(unit[splits.train.rows], splits.train.labels).centroids_
        answer = (unit[splits.test.rows] @ normalize(centroids).T).argmax(axis=1)
        precision, recall, f1, _ = precision_recall_fscore_support(
            splits.test.labels, answer, average="macro", zero_division=0
        )
        row = results[(results.scenario == "knn") & (results.seed == seed)].iloc[0]
        accuracy = (answer == splits.test.labels).mean()
        assert [row.accuracy, row.precision, row.recall, row.f1] == pytest.approx(
            [100 * accuracy, 100 * precision, 100 * recall, 100 * f1]
        )


def test_the_same_seeds_give_the_same_results_but_for_what_is_measured(runs, results):
    other = pd.read_csv(runs[1] / "results.csv")
    pd.testing.assert_frame_equal(results.drop(columns=MEASURED), other.drop(columns=MEASURED), check_exact=True)
    weights = [sorted(sha256(file) for file in folder.glob("subnetworks/*/?????.safetensors")) for folder in runs[:2]]
    assert weights[0] == weights[1] and len(weights[0]) == 2 * 5


def test_another_seed_is_another_experiment(results):
    by_seed = [
        results[results.seed == seed].drop(columns=["seed", *MEASURED]).reset_index(drop=True) for seed in (0, 1)
    ]
    assert not by_seed[0].equals(by_seed[1])


def test_the_run_folder_holds_what_is_promised(runs):
    folder, _, ended = runs
    for name in ("config.yaml", "manifest.json", "results.csv", "report.md", "report.html", "log.txt"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "figures").glob("*.png")) and not list(folder.rglob("*.tmp"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["subnetworks"]) == 10 and manifest["failed"] == {} and manifest["dataset"] == "toy"
    assert {"versions", "git_commit", "command"} <= set(manifest["provenance"])
    assert (
        re.search(r"report: \S+report.html", ended.out) and "clustered_nearest" in ended.out.replace(" ", "_").lower()
    )


def test_no_pickle_is_left_anywhere(runs):
    assert {file.suffix for file in runs[0].rglob("*") if file.is_file()} <= {
        "", ".csv", ".html", ".json", ".md", ".npy", ".png", ".safetensors", ".svg", ".txt", ".yaml",
    }  # fmt: skip


def test_repeating_a_finished_command_trains_and_evaluates_nothing(
    runs, call, quick, no_training, no_report, monkeypatch
):
    def evaluate(*_):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(cells, "answers", evaluate)
    folder = runs[0]
    before = (folder / "results.csv").read_bytes()
    ended = call("compare", *quick, f"runs_dir={folder.parent}", "name=toy", "seeds=2")
    assert ended.code == 0 and (folder / "results.csv").read_bytes() == before


@pytest.fixture
def small(tmp_path, quick, no_report):
    """Arguments of a run of one seed and two scenarios in a folder of its own."""
    return (*quick, f"runs_dir={tmp_path}", "name=small", "seeds=1", "scenarios=[knn,clustered_nearest]")


def test_a_run_grows_by_seeds_and_scenarios_and_keeps_its_rows(tmp_path, call, small):
    assert call("compare", *small).code == 0
    first = pd.read_csv(tmp_path / "small" / "results.csv")
    assert call("compare", *small, "seeds=2", "scenarios=[knn,clustered_nearest,clustered_maxmax]").code == 0
    grown = pd.read_csv(tmp_path / "small" / "results.csv")
    assert len(grown) == 6
    kept = grown.merge(first, on=["scenario", "seed", "train_seconds", "query_microseconds", "f1"])
    assert len(kept) == len(first) == 2


@pytest.mark.parametrize("rounds", [True, False])
def test_the_manifest_names_the_scenarios_whose_gradients_were_rounded(tmp_path, call, small, monkeypatch, rounds):
    monkeypatch.setattr("experiments.training.train.rounds_gradients", lambda precision, device: rounds)
    for scenarios in ("knn,clustered_nearest", "no_distribution"):
        arguments = f"scenarios=[{scenarios}]", "seeds=1", "trainer.matmul=low", f"runs_dir={tmp_path}", "name=low"
        assert call("compare", *small, *arguments).code == 0
    manifest = json.loads((tmp_path / "low/manifest.json").read_text())
    assert manifest.get("rounded_gradients", []) == ["clustered_nearest", "no_distribution"] * rounds


def test_weights_that_were_damaged_are_trained_again_and_become_the_same(tmp_path, call, small):
    call("compare", *small)
    weights = sorted((tmp_path / "small").glob("subnetworks/*/?????.safetensors"))
    before = [file.read_bytes() for file in weights]
    weights[1].write_bytes(before[1][:-5])
    record = sorted((tmp_path / "small").glob("subnetworks/*/*.json"))[0]
    record.write_text(record.read_text()[:-9])
    assert call("compare", *small).code == 0
    assert [file.read_bytes() for file in weights] == before


def test_other_settings_under_the_same_name_are_refused(tmp_path, call, small):
    call("compare", *small)
    before = {file: file.read_bytes() for file in (tmp_path / "small").rglob("*") if file.is_file()}
    call("compare", *small, "loss=cosface").assert_refused("loss", "another name")
    call("compare", *small, "trainer.batch_size=8").assert_refused("trainer.batch_size = 8", "16")
    assert {file: file.read_bytes() for file in (tmp_path / "small").rglob("*") if file.is_file()} == before


def test_other_data_under_the_same_name_are_refused(tmp_path, call, small, people):
    EmbeddingSet.write(tmp_path / "data", *people(n_identities=12))
    arguments = (*small, f"data.path={tmp_path / 'data'}")
    assert call("compare", *arguments).code == 0
    (tmp_path / "data").rename(tmp_path / "old")
    EmbeddingSet.write(tmp_path / "data", *people(n_identities=12, seed=1))
    call("compare", *arguments).assert_refused("fingerprint")


def test_a_sub_network_that_fails_costs_its_scenarios_and_no_other(tmp_path, call, small, monkeypatch):
    train = coordinator.train

    def failing(job, data, report=None):
        if job.cluster == 1:
            raise RuntimeError("out of\nmemory")
        train(job, data, report)

    monkeypatch.setattr(coordinator, "train", failing)
    arguments = (*small, "scenarios=[knn,no_distribution,clustered_nearest]")
    ended = call("compare", *arguments)
    assert ended.code == 1 and "memory" in ended.out and "Traceback" not in ended.out + ended.err
    assert set(pd.read_csv(tmp_path / "small" / "results.csv").scenario) == {"knn", "no_distribution"}

    trained = []
    monkeypatch.setattr(coordinator, "train", lambda job, *rest: (trained.append(job.cluster), train(job, *rest)))
    assert call("compare", *arguments).code == 0 and trained == [1]
    assert set(pd.read_csv(tmp_path / "small" / "results.csv").scenario) == {
        "knn",
        "no_distribution",
        "clustered_nearest",
    }


def test_scenarios_that_share_a_sub_network_share_its_failure(call, small, monkeypatch):
    # With m = 1 the partitions of both are the same, and so is their one sub-network.
    def failing(job, data, report=None):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(coordinator, "train", failing)
    ended = call("compare", *small, "n_subnets=1", "scenarios=[knn,no_distribution,clustered_nearest]")
    assert ended.code == 1, ended.err


def test_training_that_diverges_everywhere_ends_with_the_reasons(tmp_path, call, small):
    ended = call("compare", *small, "scenarios=[clustered_nearest]", "loss.scale=3e38")
    assert ended.code == 1 and "DivergenceError" in ended.out.replace("\n", "") and "Traceback" not in ended.err
    assert not (tmp_path / "small" / "results.csv").exists()


def test_with_a_cluster_for_everybody_each_seed_has_the_accuracies_of_knn(tmp_path, call, small):
    # The partition is the same for both seeds, their test images are not.
    assert call("compare", *small, "n_subnets=16", "seeds=2", "trainer.max_epochs=1").code == 0
    rows = pd.read_csv(tmp_path / "small" / "results.csv").set_index(["scenario", "seed"])
    for seed in (0, 1):
        knn, nearest = rows.loc["knn", seed], rows.loc["clustered_nearest", seed]
        assert nearest.f1 == knn.f1 and nearest.accuracy == knn.accuracy
        assert nearest.cluster_accuracy_test == pytest.approx(knn.accuracy)
    assert rows.loc[("knn", 0), "accuracy"] != rows.loc[("knn", 1), "accuracy"]


def test_lists_of_sizes_go_with_lists_of_clusters(tmp_path, call, small):
    assert call("compare", *small, "n_identities=[8,12]", "n_subnets=[2,3]", "trainer.max_epochs=1").code == 0
    rows = pd.read_csv(tmp_path / "small" / "results.csv")
    rows = rows[rows.scenario == "clustered_nearest"]
    assert list(zip(rows.n_identities, rows.n_subnets, strict=True)) == [(8, 2), (12, 3)]
