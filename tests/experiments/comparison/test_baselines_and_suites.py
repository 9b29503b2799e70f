# SPDX-License-Identifier: MIT
"""Baselines beside scenarios in `experiments.compare`: rows, reasons, what is kept, what is refused."""

import errno
import json

import pandas as pd
import pytest

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from experiments.comparison import entries as entries_module
from experiments.comparison.entries import ALL, expand_names, load_entries, usable_entries
from experiments.comparison.rows import PROPOSAL
from lightning_modules.baselines.base import Infeasible
from lightning_modules.baselines.hf_softmax import HFSoftmax
from lightning_modules.baselines.ivf import InvertedLists

ROWS = ["ism", "knn", "clustered_nearest", "loss=cosface", "hf_softmax", "f2c", "multi_cognition", "mix_max_sim",
        "dense_codes", "label_mapping", "faiss_ivf", "faiss_ivf_wide", "linear_svc"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("experiments.comparison.compare.write_report", lambda folder: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory, call, quick):
    """The folder of a run of `ROWS` and its arguments."""
    folder = tmp_path_factory.mktemp("baselines")
    arguments = (*quick, f"runs_dir={folder}", "name=toy", "seeds=1", f"scenarios={json.dumps(ROWS)}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.comparison.compare.write_report", lambda folder: None)
        ended = call("compare", *arguments)
    assert ended.code == 0, ended.err
    return folder / "toy", arguments, ended


def test_every_name_has_a_row(run):
    results = pd.read_csv(run[0] / "results.csv").set_index("scenario")
    assert sorted(results.index) == sorted(ROWS)
    assert results.accuracy.between(0, 100).all()
    trained = results.loc[["hf_softmax", "f2c", "dense_codes", "label_mapping"]]
    assert (trained.epochs == 2).all() and (trained.epoch_seconds_serial > 0).all()
    assert (results.drop("knn").parameters > 0).all()
    assert results.loc["hf_softmax", "parameters"] == 16 * 8


def test_three_units_stand_on_three_partitions_and_the_first_is_that_of_ism(run):
    folders = [file.name for file in (run[0] / "partitions").glob("*random*")]
    assert len(folders) == 3
    weights = {file.parent.name for file in (run[0] / "subnetworks").glob("*/*.safetensors")}
    assert len(weights) == 3 + 1 + 1  # ISM and two more shuffles; k-means; k-means under CosFace


def test_a_row_that_cannot_be_is_blank_and_says_why_until_it_can(tmp_path, call, quick, monkeypatch):
    def refuse(self, task):
        raise Infeasible(f"{task.n_identities} identities are too many")

    arguments = (*quick, f"runs_dir={tmp_path}", "name=toy", "seeds=2", "scenarios=[knn,faiss_ivf]")
    with monkeypatch.context() as patch:
        patch.setattr(InvertedLists, "fit", refuse)
        ended = call("compare", *arguments)
    assert ended.code == 0 and "16 identities are too many" in ended.out
    skipped = pd.read_csv(tmp_path / "toy" / "details" / "skipped.csv")
    assert skipped[["scenario", "seed"]].values.tolist() == [["faiss_ivf", 0], ["faiss_ivf", 1]]
    results = pd.read_csv(tmp_path / "toy" / "results.csv").set_index("scenario")
    assert results.loc["faiss_ivf", "accuracy"].isna().all() and results.loc["knn", "accuracy"].notna().all()
    assert call("compare", *arguments).code == 0
    assert pd.read_csv(tmp_path / "toy" / "results.csv").accuracy.notna().all()
    assert not (tmp_path / "toy" / "details" / "skipped.csv").exists()


def test_a_repeated_command_fits_nothing_again(run, call, monkeypatch):
    monkeypatch.setattr(HFSoftmax, "fit", lambda *_: pytest.fail("fitted again"))
    before = (run[0] / "results.csv").read_text()
    assert call("compare", *run[1]).code == 0
    assert (run[0] / "results.csv").read_text() == before


def test_a_baseline_that_fails_is_named_and_costs_no_other(tmp_path, call, quick, monkeypatch):
    def fit(self, task):
        raise RuntimeError("the index is full")

    monkeypatch.setattr(HFSoftmax, "fit", fit)
    ended = call("compare", *quick, f"runs_dir={tmp_path}", "name=toy", "seeds=1", "scenarios=[knn,hf_softmax]")
    assert ended.code == 1 and "the index is full" in ended.out
    assert pd.read_csv(tmp_path / "toy" / "results.csv").scenario.tolist() == ["knn"]


def test_a_full_disk_stops_the_command_and_is_no_failed_baseline(tmp_path, call, quick, monkeypatch):
    def fit(self, task):
        raise OSError(errno.ENOSPC, "full", "weights")

    monkeypatch.setattr(HFSoftmax, "fit", fit)
    ended = call("compare", *quick, f"runs_dir={tmp_path}", "name=toy", "seeds=1", "scenarios=[hf_softmax,faiss_ivf]")
    ended.assert_refused("weights (No space left on device)", "make room")
    assert not list(tmp_path.glob("toy/cells/*"))


def test_the_suite_of_all_is_every_file_and_nothing_twice(compose):
    cfg = compose("compare", "suite=all")
    entries = load_entries(cfg.scenarios, cfg)
    names = [part.name for part in (*entries.scenarios, *entries.baselines)] + list(entries.missing)
    assert {"ism", "knn", "clustered_nearest", "hf_softmax", "multi_cognition", "loss=cosface"} <= set(names)
    repeated = {"loss=arcface", "partitioner=single", "partitioner=kmeans", "decision=nearest_mean"}
    assert not repeated & set(names) and len(set(names)) == len(names)
    assert set(expand_names(["*"])) <= set(names) and set(expand_names(list(ALL))) >= set(names)


def test_an_exchanged_choice_is_the_only_difference_to_the_proposal(compose):
    cfg = compose("compare")
    proposal, other = load_entries([PROPOSAL, "partitioner=random"], cfg).scenarios
    assert {group for group in other.nodes if other.nodes[group] != proposal.nodes[group]} == {"partitioner"}
    assert other.names["partitioner"] == "random"


@pytest.mark.parametrize("name", ["nobody", "loss=nobody", "seeds=3", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name, compose):
    with pytest.raises(InputError, match="expected"):
        load_entries([name], compose("compare"))


def test_a_package_that_is_not_there_leaves_a_reason(compose, monkeypatch):
    real = entries_module.instantiate

    def instantiate(node):
        if "hf_softmax" in str(node):
            from hydra.errors import InstantiationException

            raise InstantiationException("no") from ModuleNotFoundError("no", name="faiss")
        return real(node)

    monkeypatch.setattr(entries_module, "instantiate", instantiate)
    entries = load_entries(["knn", "hf_softmax"], compose("compare"))
    assert entries.missing == {"hf_softmax": "package faiss is not installed"} and len(entries.scenarios) == 1


def test_losses_that_need_lengths_are_set_aside_on_normalised_data(compose, people):
    cfg, (rows, labels, names) = compose("compare"), people()
    entries = load_entries(["loss=magface", "loss=cosface"], cfg)
    able = usable_entries(entries, cfg, EmbeddingSet(rows, labels, names, meta={"normalised": True}))
    assert [s.name for s in able.scenarios] == ["loss=cosface"] and "lengths" in able.missing["loss=magface"]
    assert len(usable_entries(entries, cfg, EmbeddingSet(rows, labels, names)).scenarios) == 2
