# SPDX-License-Identifier: MIT
"""Wishes that are rows of a table: one comparison trains them all, each row is checked on its own.

Weights do not move in rows whose rate is 0: their loss is that of the class means, computed here by numpy or torch.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from datamodules.partitioners.base import Partition
from lightning_modules.identifier import Identifier
from tests.experiments.offline_runs import offline_runs
from tests.wishes import wish_files as files
from tests.wishes.workbench import plain_sgd

ONE = "no_distribution"
ALTERNATING = "clustered_nearest,partitioner=alternating"
ROWS = {
    "margin 0.1": f"{ONE},loss=tight",
    "margin 0.4": f"{ONE},loss=tight,loss.margin=0.4",
    "focal": f"{ONE},loss=focal",
    "learned scale": f"{ONE},loss=learned_scale,optimizer=sgd,optimizer.lr=0.5",
    "counts": f"{ONE},loss=prior",
    "growing": f"{ONE},loss=growing",
    "sgd": f"{ONE},optimizer=sgd,optimizer.lr=0.01",
    "warm-up": f"{ONE},optimizer=sgd,optimizer.lr=0.01,scheduler=warmup_cosine,scheduler.warmup=0.5",
    "low rank": f"{ONE},head=low_rank,head.rank=2",
    "partitioner": ALTERNATING,
    "router": f"{ALTERNATING},router=last_cluster",
    "decision": f"{ALTERNATING},router=last_cluster,decision=first_member",
}
EPOCHS = 4
OPTIONS = ("loss=cosface", "optimizer.lr=0", f"trainer.max_epochs={EPOCHS}")


@pytest.fixture(scope="module")
def table(bench):
    for wish in (
        files.MARGIN, files.FOCAL, files.LEARNED_SCALE, files.COUNTS, files.GROWING, files.PARTITIONER, files.ROUTER,
        files.DECISION,
    ):  # fmt: skip
        bench.wish(wish)
    bench.compare("table", list(ROWS.values()), *OPTIONS)
    return bench


def losses(bench, row: str) -> np.ndarray:
    """(EPOCHS,) mean training loss."""
    return np.array([record["train/loss"] for record in bench.network("table", ROWS[row])[1]])


def cosines(bench) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C) cosines of training samples and class means, (B,) labels."""
    x_BD, target_B = bench.samples(bench.splits.train)
    return (x_BD @ F.normalize(bench.means()).T).double(), target_B


def with_margin(bench, margin_B: torch.Tensor | float, slope: float = 0.0) -> float:
    """Mean cross-entropy at scale 16 where the true cosine c is c - margin (1 - slope c)."""
    cosine_BC, target_B = cosines(bench)
    true_BC = F.one_hot(target_B, cosine_BC.shape[1])
    return F.cross_entropy(16 * (cosine_BC - margin_B * (1 - slope * cosine_BC) * true_BC), target_B).item()


@pytest.mark.parametrize("row, margin", [("margin 0.1", 0.1), ("margin 0.4", 0.4)])
def test_1_a_new_margin_loss(table, row, margin):
    np.testing.assert_allclose(losses(table, row), with_margin(table, margin, slope=1.0), rtol=1e-4)


def test_2_focal_loss_with_label_smoothing(table):
    cosine_BC, target_B = cosines(table)
    log_BC = (16 * cosine_BC).log_softmax(1).numpy()
    wanted_BC = np.full(log_BC.shape, 0.1 / log_BC.shape[1])
    wanted_BC[np.arange(len(wanted_BC)), target_B] += 0.9
    true_B = np.exp(log_BC[np.arange(len(log_BC)), target_B])
    expected = np.mean((1 - true_B) ** 2 * -(wanted_BC * log_BC).sum(1))
    np.testing.assert_allclose(losses(table, "focal"), expected, rtol=1e-4)


def test_3_a_loss_with_a_trained_scale(table):
    (x_BD, target_B), weight_CD = table.samples(table.splits.train), table.means().requires_grad_()
    scale = torch.tensor(16.0, requires_grad=True)
    optimizer = torch.optim.SGD([weight_CD, scale], lr=0.5, momentum=0.9, weight_decay=5e-4)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(scale * (x_BD @ F.normalize(weight_CD).T), target_B).backward()
        optimizer.step()
    weights, _ = table.network("table", ROWS["learned scale"])
    assert abs(scale.item() - 16) > 0.01
    assert weights["loss.scale"].item() == pytest.approx(scale.item(), rel=1e-3)
    torch.testing.assert_close(weights["head.weight_CD"], weight_CD.detach(), rtol=1e-2, atol=1e-3)


def test_4_a_loss_with_class_counts(table):
    cosine_BC, target_B = cosines(table)
    counts_C = np.bincount(target_B)
    assert counts_C.min() < counts_C.max()
    logit_BC = 16 * cosine_BC.numpy() + np.log(counts_C / counts_C.sum())
    expected = np.mean(np.log(np.exp(logit_BC).sum(1)) - logit_BC[np.arange(len(logit_BC)), target_B])
    np.testing.assert_allclose(losses(table, "counts"), expected, rtol=1e-4)


def test_5_a_margin_that_grows_with_the_epoch(table):
    expected = [with_margin(table, margin) for margin in (0.0, 0.2, 0.4, 0.6)]
    np.testing.assert_allclose(losses(table, "growing"), expected, rtol=1e-4)


def test_6_sgd_with_momentum(table):
    weights, _ = table.network("table", ROWS["sgd"])
    torch.testing.assert_close(weights["head.weight_CD"], plain_sgd(table, EPOCHS, 0.01)[-1], rtol=1e-3, atol=1e-4)


def test_7_warm_up_and_cosine(table):
    factors = [1 / 3, 2 / 3, 1.0, 0.5]  # two of four steps rise; then half a cosine wave over the other two
    weights, history = table.network("table", ROWS["warm-up"])
    expected = plain_sgd(table, EPOCHS, 0.01, factors)[-1]
    torch.testing.assert_close(weights["head.weight_CD"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose([record["learning_rate"] for record in history], 0.01 * np.array(factors), rtol=1e-5)


def test_14_a_low_rank_head(table):
    weights, _ = table.network("table", ROWS["low rank"])
    rows_CD = weights["head.factor_Cr"] @ weights["head.basis_rD"]
    assert weights["head.factor_Cr"].shape == (12, 2) and torch.linalg.matrix_rank(rows_CD) == 2
    found = table.results("table").loc[ROWS["low rank"]]
    assert found.parameters == 2 * (12 + 8)
    x_BD, target_B = table.samples(table.splits.test)
    right_B = (x_BD @ F.normalize(rows_CD).T).argmax(1) == target_B
    assert found.accuracy == pytest.approx(100 * right_B.float().mean().item(), abs=1e-4)


def test_17_a_partitioner(table):
    (folder,) = (table.folder / "runs/table/partitions").glob("*-alternating-*")
    assert Partition.load(folder).cluster_of.tolist() == [0, 1] * 6
    assert table.results("table").loc[ROWS["partitioner"]].partitioner == "alternating"


def test_18_a_router_and_a_decision(table):
    results, (_, target_B) = table.results("table"), table.samples(table.splits.test)
    odd = 100 * (target_B % 2 == 1).float().mean().item()
    assert results.loc[ROWS["router"]].cluster_accuracy_test == pytest.approx(odd, abs=1e-4)
    assert results.loc[ROWS["partitioner"]].cluster_accuracy_test > odd
    first = 100 * (target_B == 1).float().mean().item()  # the first member of the last cluster
    assert results.loc[ROWS["decision"]].accuracy == pytest.approx(first, abs=1e-4)
    assert results.loc[ROWS["router"]].accuracy > first


def test_19_two_margins_as_two_rows_of_one_table(table):
    results = table.results("table")
    assert results.loc[ROWS["margin 0.1"]].loss == "tight"
    assert results.loc[ROWS["margin 0.4"]].loss == "tight(margin=0.4)"
    report = (table.folder / "runs/table/report.md").read_text(encoding="utf-8")
    for row in ("margin 0.1", "margin 0.4"):
        title = ", ".join(["No distribution", *ROWS[row].split(",")[1:]])
        assert f"| {title} |" in report
    assert losses(table, "margin 0.4")[0] > losses(table, "margin 0.1")[0] + 0.1


def test_21_an_identifier_from_a_finished_comparison(table):
    before = {file: file.stat().st_mtime_ns for file in (table.folder / "runs/table").rglob("*")}
    row = ROWS["sgd"]
    table.run("train", "run=runs/table", f"scenario='{row}'", "out=from_table", "logger=none")
    assert {file: file.stat().st_mtime_ns for file in (table.folder / "runs/table").rglob("*")} == before
    identifier, splits = Identifier.load(table.folder / "from_table"), table.splits
    found = identifier.identify(np.asarray(table.data.embeddings)[splits.test.rows]).index
    assert 100 * np.mean(found == splits.test.labels) == pytest.approx(table.results("table").accuracy[row], abs=1e-4)


@pytest.mark.slow
def test_13_a_metric_in_results_report_and_weights_and_biases(table):
    before = table.results("table")
    table.wish(files.METRIC)
    rows = [ROWS["router"], ROWS["decision"]]
    table.compare("table", rows, *OPTIONS, "metrics=[distinct_answers]", "logger=wandb")
    found = table.results("table").distinct_answers
    assert found[ROWS["decision"]] == 1 and 1 < found[ROWS["router"]] <= 6  # the six identities of the last cluster
    assert "Distinct answers (identities)" in (table.folder / "runs/table/report.md").read_text(encoding="utf-8")
    (sent,) = [run["summary"] for run in offline_runs(table.folder / "runs/table") if run["type"] == "summary"]
    assert sent[f"distinct_answers_identities/N=12/{ROWS['decision']}"] == 1
    assert pd.Series(before.train_seconds[rows]).equals(table.results("table").train_seconds[rows])  # trained once
