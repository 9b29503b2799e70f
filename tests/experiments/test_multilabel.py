# SPDX-License-Identifier: MIT
"""The command as a user calls it."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from experiments.label_clusters.networks import train_label_network

QUICK = ("logger=none", "trainer.threads=1", "settings.hidden=8", "settings.epochs=3", "settings.label_clusters=2")


@pytest.fixture
def mat(tmp_path):
    random = np.random.default_rng(0)
    data = random.poisson(1.0, (80, 6))
    target = np.stack([data[:, place] + data[:, (place + 1) % 6] > 3 for place in range(5)])
    target[:, :5] |= np.eye(5, dtype=bool)
    savemat(tmp_path / "made.mat", {"data": data.astype(np.uint8), "target": target.astype(np.int16) * 2 - 1})
    return tmp_path / "made.mat"


def test_a_run_leaves_results_report_and_figures_and_goes_on_where_it_stopped(call, mat, tmp_path):
    pytest.importorskip("k_means_constrained")
    words = (f"data.path={mat}", f"runs_dir={tmp_path / 'runs'}", "name=one", *QUICK)
    ended = call("multilabel", *words)
    assert ended.code == 0, ended.err
    folder = tmp_path / "runs/one"
    frame = pd.read_csv(folder / "results.csv")
    assert frame["method"].is_unique and set(frame["protocol"]) == {"honest", "leaky"}
    assert frame["method"].tolist()[:4] == ["label_clusters", *(f"label_clusters_leaky_{key}" for key in "abc")]
    plain = ["accuracy", "precision", "recall", "f1", "hamming_loss", "micro_f1", "macro_f1", "precision_at_1"]
    honest = frame.loc[frame["protocol"] == "honest"]
    assert len(honest) == 11 and honest[plain].notna().all(axis=None) and (honest[plain] <= 100).all(axis=None)
    assert (folder / "report.html").is_file() and len(list((folder / "figures").glob("*.png"))) == 2
    assert "LEAKY" in (folder / "results.csv").read_text() and "made" in ended.out

    written = {file: file.stat().st_mtime_ns for file in folder.glob("subnetworks/*/*")}
    more = call("multilabel", *words, "seeds=2")
    assert more.code == 0, more.err
    both = pd.read_csv(folder / "results.csv")
    assert both["seed"].value_counts().tolist() == [14, 14]
    pd.testing.assert_frame_equal(both.loc[both["seed"] == 0].reset_index(drop=True), frame)
    assert all(file.stat().st_mtime_ns == time for file, time in written.items())


def test_a_network_that_fails_costs_its_method_alone_and_is_tried_again(call, mat, tmp_path, monkeypatch):
    def fails(job, *rest):
        if job.cluster == 1:
            raise FloatingPointError("made to fail")
        train_label_network(job, *rest)

    words = (
        f"data.path={mat}",
        f"runs_dir={tmp_path / 'runs'}",
        "name=one",
        *QUICK,
        "methods=[random_clusters,one_network]",
    )
    monkeypatch.setattr("experiments.label_clusters.networks.train_label_network", fails)
    ended = call("multilabel", *words)
    assert ended.code == 1 and "made to fail" in ended.out and "label cluster 1 of 2" in ended.out
    frame = pd.read_csv(tmp_path / "runs/one/results.csv").set_index("method")
    assert frame["f1"].notna().to_dict() == {"random_clusters": False, "one_network": True}
    assert "FloatingPointError: made to fail" in frame.loc["random_clusters", "note"]
    trained = []
    monkeypatch.setattr(
        "experiments.label_clusters.networks.train_label_network",
        lambda *job: trained.append(job[0]) or train_label_network(*job),
    )
    assert call("multilabel", *words).code == 0 and [job.cluster for job in trained] == [1]
    assert pd.read_csv(tmp_path / "runs/one/results.csv")["f1"].notna().all()


def test_two_data_sets_in_one_run(call, mat, tmp_path):
    other = mat.with_name("other.mat")
    other.write_bytes(mat.read_bytes())
    words = (f"data.path=[{mat},{other}]", f"runs_dir={tmp_path / 'runs'}", "name=two", *QUICK)
    assert call("multilabel", *words, "methods=[ml_knn]").code == 0
    first = sorted(tmp_path.glob("runs/two/finished/*"))
    assert call("multilabel", *words, "methods=[binary_relevance,ml_knn]").code == 0  # one more goes into the same run
    assert len(first) == 2 and set(first) < set(tmp_path.glob("runs/two/finished/*"))
    frame = pd.read_csv(tmp_path / "runs/two/results.csv")
    assert frame["dataset"].tolist() == ["made", "made", "other", "other"]
    assert frame["f1"].tolist()[:2] == frame["f1"].tolist()[2:]


ARFF = "@relation r\n@attribute a numeric\n@attribute x {0,1}\n@attribute y {0,1,2}\n@data\n"


@pytest.mark.parametrize(
    "rows, labels, words",
    [
        ("1,0\n", "x", "line 6 with 2 values"),
        ("1,0,1\n2,1,0\n3,1,1\n", "xz", "'z', which is no attribute"),
        ("1,0,1\n2,1,2\n3,1,1\n", "xy", "'y', has values other than 0 and 1"),
        ("1,0,0\n2,1,0\n3,1,0\n", "xy", "'y', stands in no row"),
    ],
)
def test_a_data_set_that_cannot_be_used_costs_one_line_and_leaves_nothing(call, tmp_path, rows, labels, words):
    (tmp_path / "set.arff").write_text(ARFF + rows)
    (tmp_path / "set.xml").write_text(f"<labels>{''.join(f'<label name={label!r}/>' for label in labels)}</labels>")
    call("multilabel", f"data.path={tmp_path / 'set.arff'}", f"runs_dir={tmp_path / 'runs'}").assert_refused(words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ("methods=[nothing]", "label_method 'nothing'"),
        ("methods=[]", "methods = []"),
        ("settings.epoch=3", "epoch"),
        ("settings.label_clusters=9", "9 for 5 labels"),
        ("split.test=1", "split.test = 1"),
        ("seeds=0", "seeds = 0"),
        ("data.xml=a.xml", "nothing"),
        ("label_partitioner.smallest=2", "smallest = 2"),
    ],
)
def test_a_configuration_that_cannot_be_used_costs_one_line(call, mat, tmp_path, change, words):
    words_given = (f"data.path={mat}", f"runs_dir={tmp_path / 'runs'}", *QUICK, change)
    if change == "data.xml=a.xml":
        words_given, words = (*words_given, f"data.path=[{mat},{mat}]"), "data.xml = a.xml"
    call("multilabel", *words_given).assert_refused(words)
    assert not (tmp_path / "runs").exists()


def test_a_missing_path_is_named(call):
    assert "data.path" in call("multilabel", *QUICK).err
