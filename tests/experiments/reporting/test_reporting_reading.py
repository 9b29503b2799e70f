# SPDX-License-Identifier: MIT
import json

import pandas as pd
import pytest
from made_up_run import fake_results

from datamodules.errors import InputError
from experiments.reporting.reading import RESULTS, read_csv
from experiments.reporting.runs import merge_runs, read_run

# As DESIGN.md states it, retyped so that a changed column is noticed.
COLUMNS = (
    "dataset,extractor,n_identities,n_subnets,scenario,partitioner,loss,init,router,decision,seed,accuracy,precision,"
    "recall,f1,cluster_accuracy_train,cluster_accuracy_test,epochs,epoch_seconds_serial,epoch_seconds_parallel,"
    "train_seconds,peak_memory_mb,query_microseconds,parameters,train_samples,test_samples"
)


def test_the_columns_are_those_of_the_design():
    assert sorted(RESULTS.columns) == sorted(COLUMNS.split(","))


def test_reads_back_what_was_written_blanks_included(make_run):
    written = fake_results(["made_up"], [1000], [0, 1])
    read = read_run(make_run(results=written)).results
    assert list(read["f1"]) == pytest.approx(list(written["f1"]))
    knn = read[read["scenario"] == "knn"]
    assert knn[["n_subnets", "epochs", "cluster_accuracy_test"]].isna().all().all() and (knn["loss"] == "").all()


def test_runs_of_before_do_not_say_how_many_samples_they_had(make_run):
    written = fake_results(["made_up"], [1000], [0, 1]).drop(columns=["train_samples", "test_samples"])
    assert read_run(make_run(results=written)).results["train_samples"].isna().all()


def damaged(folder, change):
    path = folder / "results.csv"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b.replace(b"f1,", b"f_one,", 1), "without the column(s) f1"),
        (lambda b: b.replace(b",seed,accuracy", b",", 1), "without the column(s) seed, accuracy"),
        (lambda b: b.replace(b"dataset,extractor", b"dataset,dataset", 1), "extractor"),
        (lambda b: b.replace(b"dataset,", b"dataset,dataset,", 1), "twice"),
        (lambda b: b"", "without the column(s)"),
        (lambda b: b.splitlines(keepends=True)[0], "no rows"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,first,", 1), "line 2, column seed: 'first'"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,0.5,", 1), "expected a whole number"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,,", 1), "line 2 with a blank seed"),
        (lambda b: b.replace(b",argmax,0,9", b",argmax,0,999", 1), "from 0 to 100"),
        (lambda b: b.replace(b",argmax,0,9", b",argmax,0,-9", 1), "from 0 to 100"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,nan,", 1), "column seed: 'nan'"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,inf,", 1), "column seed: 'inf'"),
        (lambda b: b.replace(b",argmax,0,", b",argmax,0,0,", 1), "line 2 with 27 cells"),
        (lambda b: b[:-60], "line 8 with"),
        (lambda b: b"\xff\xfe\x00" + b, "unreadable"),
        (lambda b: b.replace(b"made_up", b'"made_up', 1), "unreadable"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(make_run, change, said):
    # The integer columns are whole numbers in the file; the first data line is line 2.
    assert said in damaged(make_run(sizes=(1000,), seeds=(0,)), change)


def test_a_missing_folder_file_or_manifest(make_run, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        read_run(tmp_path / "nowhere")
    run = make_run(sizes=(1000,), seeds=(0,))
    (run / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest.json"):
        read_run(run)
    (run / "manifest.json").unlink()
    (run / "config.yaml").unlink()
    assert read_run(run).manifest == {} and read_run(run).config == ""
    (run / "results.csv").unlink()
    with pytest.raises(InputError, match=r"no file .*results\.csv"):
        read_run(run)


def test_garbled_details_are_refused_not_left_out(make_run):
    run = make_run(details=True)
    path = run / "details" / "clusters.csv"
    path.write_text(path.read_text().replace("kmeans,0,0,", "kmeans,0,zero,", 1))
    with pytest.raises(InputError, match=r"clusters\.csv line \d+, column cluster: 'zero'"):
        read_run(run)


def test_rows_that_contradict_each_other_in_one_file(make_run):
    rows = fake_results(["made_up"], [1000], [0])
    other = rows.assign(f1=rows["f1"] + 1)
    with pytest.raises(InputError, match="contradict each other.*no_distribution on made_up, N = 1000, seed 0"):
        read_run(make_run(results=pd.concat([rows, other])))


def test_merging_keeps_every_row_once_and_says_where_it_comes_from(make_run, tmp_path):
    a = make_run("a", seeds=(0, 1), details=True)
    b = make_run("b", seeds=(1, 2))
    out = tmp_path / "merged"
    out.mkdir()
    dropped = merge_runs([a, b], out)
    merged = read_run(out)
    assert dropped == 14  # seven scenarios at two N under seed 1
    assert sorted(merged.results["seed"].unique()) == [0, 1, 2]
    assert len(merged.results) == 3 * 14
    assert dict(merged.results.groupby("seed")["run"].unique().map(list)) == {0: ["a"], 1: ["a"], 2: ["b"]}
    assert set(merged.details) == {"history", "clusters", "identities", "routing"}
    assert "max_epochs" in merged.config and '--- # of the run "b"' in merged.config
    assert merged.manifest["merged_from"]["a"]["rows"] == 28
    assert len(merged.manifest["merged_from"]["b"]["results_sha256"]) == 64
    # A merger can be merged again.
    again = tmp_path / "again"
    again.mkdir()
    merge_runs([out, make_run("c", seeds=(3,))], again)
    assert set(read_run(again).results["run"]) == {"merged/a", "merged/b", "c"}


def test_a_merger_knows_the_data_set_of_each_run(make_run, tmp_path):
    a, b, c = (make_run(f"{seed}", sizes=(1000,), seeds=(seed,)) for seed in (0, 1, 2))
    for folder in (a, b):
        (folder / "manifest.json").write_text(json.dumps({"data_fingerprint": f"data {folder.name}"}))
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir(), outer.mkdir()
    merge_runs([a, b], inner)
    merge_runs([inner, c], outer)
    rows = read_run(outer).results
    assert dict(rows.groupby("seed")["data_fingerprint"].first()) == {0: "data 0", 1: "data 1", 2: ""}


def test_merging_refuses_contradictions_and_repetitions(make_run, tmp_path):
    a = make_run("a", sizes=(1000,), seeds=(0,))
    rows = fake_results(["made_up"], [1000], [0])
    b = make_run("b", results=rows.assign(recall=rows["recall"] - 1))
    with pytest.raises(InputError, match="contradict each other, from a and b"):
        merge_runs([a, b], tmp_path)
    with pytest.raises(InputError, match="twice"):
        merge_runs([a, a / ".." / "a"], tmp_path)


def test_runs_of_the_same_name_stay_apart(make_run, tmp_path):
    first, second = make_run("x/run", seeds=(0,)), make_run("y/run", seeds=(1,))
    out = tmp_path / "merged"
    out.mkdir()
    merge_runs([first, second], out)
    assert set(read_run(out).results["run"]) == {str(first), str(second)}
    assert json.loads((out / "manifest.json").read_text())["repeated_rows_dropped"] == 0


def test_unknown_columns_are_let_through(make_run):
    rows = fake_results(["made_up"], [1000], [0]).assign(note="a, b")
    assert set(read_csv(make_run(results=rows) / "results.csv", RESULTS)["note"]) == {"a, b"}
