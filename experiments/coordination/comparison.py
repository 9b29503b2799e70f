# SPDX-License-Identifier: MIT
"""A comparison: every scenario in every cell, each part kept on disk as soon as it is known."""

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate

from datamodules.errors import InputError
from datamodules.files import make_folder, read_sealed, write_sealed, write_text
from experiments.coordination.coordinator import Cell, Coordinator
from experiments.coordination.evaluation import (
    cluster_accuracy,
    cluster_rows,
    evaluate,
    history_rows,
    query_microseconds,
    training_columns,
)  # fmt: skip
from experiments.coordination.open_set_evaluation import answers, error_rows, open_set_rows, rank_rows
from experiments.coordination.scenarios import Scenario, load_node
from experiments.reporting.columns import ADDED, TABLE, Column, from_rows
from lightning_modules.routers.base import Router

log = logging.getLogger(__name__)

ROUTERS_OF_TABLE_1 = ("cluster_mean", "max_output", "nearest_class")
DETAILS = ("columns", "scenarios", "history", "clusters", "routing", "identities", "errors", "cmc", "open_set", "det")
HARDEST = 20  # identities kept per scenario and cell for the report


def evaluate_cell(
    coordinator: Coordinator, cell: Cell, scenarios: list[Scenario], failed: dict[str, tuple[str, str]],
    metrics: dict[Column, dict[str, Any]],
) -> None:  # fmt: skip
    """Evaluates the scenarios of a cell that are not evaluated yet and keeps each as `cells/*.json`.

    Args:
        failed: sub-networks that failed, by `Job.identifier`; scenarios that need one of them are left out.
        metrics: further ones, see `evaluation.load_metrics`.
    """
    embedding_set, splits, means_KD = coordinator.enrolled(cell)
    for scenario in scenarios:
        jobs = coordinator.jobs(cell, scenario)
        partition, _ = coordinator.partition(cell, scenario)
        file = cell_file(coordinator, cell, scenario.name)
        state = [
            *(job.key for job in jobs[:1]), coordinator.fingerprint, partition.hash(), scenario.title, scenario.names,
            scenario.nodes["router"], scenario.nodes["decision"], *metrics.values(),
        ]  # fmt: skip
        if any(job.identifier in failed for job in jobs) or finished(file, state):
            continue
        identifier = coordinator.identifier(cell, scenario)
        values, recall_K = evaluate(identifier, embedding_set, splits.test, metrics)
        records = [job.record() for job in jobs]
        labels, own = coordinator.labels(cell), bool(coordinator.own_recipe(scenario))
        row = {
            **labels,
            "extractor": embedding_set.meta.get("extractor", ""),
            "n_subnets": partition.n_clusters,
            "scenario": scenario.name,
            **{key: scenario.names[key] if records or key in ("router", "decision") else ""
               for key in ("partitioner", "loss", "init", "router", "decision")},
            **values,
            **training_columns(records),
            "query_microseconds": query_microseconds(identifier, embedding_set, splits.test),
        }  # fmt: skip
        if partition.n_clusters > 1 and scenario.router is not None:
            router = identifier.router, scenario.names["router"]
            row |= _both_cluster_accuracies(coordinator, cell, scenario, identifier, *router)
        found = answers(identifier, embedding_set, splits.test)
        of_scenario = {**labels, "n_subnets": cell.n_subnets, "scenario": scenario.name}
        searches: tuple[list[dict], list[dict]] = [], []
        if len(splits.unknown):
            searches = open_set_rows(found, identifier, embedding_set, splits, **of_scenario)
        content = {
            "state": state,
            "row": row,
            "columns": [asdict(column) for column in metrics],
            "scenarios": [{"scenario": scenario.name, "title": scenario.title}],
            "history": history_rows(
                records, **labels, scenario_partition=scenario.name if own else scenario.names["partitioner"],
            ),
            "clusters": cluster_rows(
                partition, means_KD, recall_K, **labels, n_subnets=cell.n_subnets,
                partitioner=scenario.names["partitioner"],
                order=int(scenario.router is None or scenario.router.needs_heads),
            )
            if partition.n_clusters > 1 else [],
            "routing": _routing(coordinator, cell, scenario, identifier)
            if partition.n_clusters > 1 and records and not own else [],
            "errors": error_rows(found, recall_K, identifier, **of_scenario),
            "cmc": rank_rows(found, **of_scenario),
            "open_set": searches[0], "det": searches[1],
            "identities": hardest(identifier.identities, recall_K, splits.test.labels, scenario.name),
        }  # fmt: skip
        keep(coordinator, file, content)


def cell_file(coordinator: Coordinator, cell: Cell, name: str) -> Path:
    """Where the results of a scenario or a baseline in a cell lie."""
    plain = re.sub(r"[^\w.,=+()\[\]-]", "_", name)[:120]
    if plain != name:  # a value with a slash, a row of many parts
        plain += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return coordinator.run.path / "cells" / f"N{cell.n_identities}-m{cell.n_subnets}-seed{cell.seed}-{plain}.json"


def keep(coordinator: Coordinator, file: Path, content: dict[str, Any]) -> None:
    """Writes a cell's file, whole or not at all."""
    make_folder(file.parent)
    write_sealed(file, content)
    coordinator.run.note_files(file)


def finished(file: Path, state: list[Any]) -> bool:
    """Whether a cell's file holds the results of that state."""
    content = _read_cell(file)
    return content is not None and content.get("state") == json.loads(json.dumps(state))


def _read_cell(file: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(file) if file.exists() else None
    except InputError as error:
        log.warning("%s; the cell is evaluated again where it is asked for", error)
        return None


def _both_cluster_accuracies(
    coordinator: Coordinator, cell: Cell, scenario: Scenario, identifier: Any, router: Router, name: str
) -> dict[str, float]:
    # Scenarios that share sub-networks share this too, and max-max over all training samples is the costliest part.
    partition, _ = coordinator.partition(cell, scenario)
    jobs = coordinator.jobs(cell, scenario) if router.needs_heads else []
    settings = sorted((k, v) for k, v in vars(router).items() if not isinstance(v, torch.Tensor))
    key = (cell, name, *[job.key for job in jobs[:1]], partition.hash(), str(settings))
    cache = coordinator.cluster_accuracies
    if key not in cache:
        embedding_set, splits, _ = coordinator.enrolled(cell)
        cache[key] = {
            f"cluster_accuracy_{role}": cluster_accuracy(identifier, router, embedding_set, getattr(splits, role))
            for role in ("train", "test")
        }
    return cache[key]


def _routing(coordinator: Coordinator, cell: Cell, scenario: Scenario, identifier: Any) -> list[dict[str, Any]]:
    rows = []
    for name in ROUTERS_OF_TABLE_1:
        router = instantiate(load_node("router", name))
        rows.append({
            "dataset": coordinator.dataset, "n_identities": cell.n_identities, "n_subnets": cell.n_subnets,
            "partitioner": scenario.names["partitioner"], "router": name, "seed": cell.seed,
            **_both_cluster_accuracies(coordinator, cell, scenario, identifier, router, name),
        })  # fmt: skip
    return rows


def hardest(identities: tuple[str, ...], recall_K: np.ndarray, test_labels: np.ndarray, scenario: str) -> list[dict]:
    """Rows of details/identities.csv: the identities of lowest recall.

    Args:
        recall_K: recall of each in percent.
        test_labels: (n,) identity of each test sample.
    """
    samples = np.bincount(test_labels, minlength=len(identities))
    order = np.lexsort((-samples, np.nan_to_num(recall_K, nan=np.inf)))[:HARDEST]
    return [
        {"identity": identities[i], "scenario": scenario, "recall": float(recall_K[i]), "test_samples": int(samples[i])}
        for i in order if samples[i]
    ]  # fmt: skip


def write_results(run_folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Joins `cells/*.json` into results.csv and details/*.csv, each whole or not at all.

    Returns:
        The tables of results.csv and details/skipped.csv.
    """
    cells = [_read_cell(file) for file in sorted((run_folder / "cells").glob("*.json"))]
    cells = [cell for cell in cells if cell is not None]
    further = from_rows([row for cell in cells for row in cell.get("columns", [])])
    columns = (*TABLE, *further)
    frame = pd.DataFrame([cell["row"] for cell in cells], columns=[column.name for column in columns])
    frame = frame.sort_values(["dataset", "n_identities", "n_subnets", "scenario", "seed"], ignore_index=True)
    frame = frame.astype({column.name: "Int64" for column in columns if column.holds == "whole"})
    frame.attrs[ADDED] = further
    write_text(run_folder / "results.csv", frame.to_csv(index=False, float_format="%.10g"))
    make_folder(run_folder / "details")
    for name in ("columns", "skipped"):  # what is no longer asked for; what could not be may be possible by now
        (run_folder / "details" / f"{name}.csv").unlink(missing_ok=True)
    for name in (*DETAILS, "skipped"):
        details = pd.DataFrame([row for cell in cells for row in cell.get(name, [])]).drop_duplicates(ignore_index=True)
        if name == "clusters" and len(details):
            # Scenarios with one partition differ in recall; the one routed by class means stands for the partition.
            details = details.sort_values("order", kind="stable").drop(columns="order")
            same = ["n_identities", "n_subnets", "seed", "partitioner", "cluster"]
            details = details.drop_duplicates(same, ignore_index=True)
        if len(details):
            write_text(run_folder / "details" / f"{name}.csv", details.to_csv(index=False))
    return frame, details
