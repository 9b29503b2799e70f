# SPDX-License-Identifier: MIT
"""Evaluates the scenarios of each cell; each result is written as soon as it is known."""

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
from experiments.command_line.choices import load_node
from experiments.comparison.coordinator import Cell, Coordinator, trained_for
from experiments.comparison.details import cluster_rows, history_rows, training_columns
from experiments.comparison.metrics import new_metrics
from experiments.comparison.scenarios import Scenario
from experiments.reporting.columns import ADDED, TABLE, from_rows
from experiments.training.progress import training_work
from lightning_modules.evaluation import cluster_accuracy, measured, query_microseconds
from lightning_modules.open_set_evaluation import answers, error_rows, open_set_rows, rank_rows
from lightning_modules.routers.base import Router
from lightning_modules.routers.nearest_class import NearestClass

log = logging.getLogger(__name__)

ROUTERS_OF_TABLE_1 = ("cluster_mean", "max_output", "nearest_class")
DETAILS = ("columns", "scenarios", "history", "clusters", "routing", "identities", "errors", "cmc", "open_set", "det")
HARDEST = 20  # identities kept per scenario and cell for the report


def evaluate_cell(coordinator: Coordinator, cell: Cell, scenarios: list[Scenario]) -> None:
    """Evaluates the scenarios of a cell that are not evaluated yet, and writes each as `cells/*.json`.

    Scenarios that need a failed sub-network are left out.
    """
    for scenario in scenarios:
        jobs = coordinator.jobs(cell, scenario)
        partition = coordinator.partition(cell, scenario)
        file = cell_file(coordinator, cell, scenario.name)
        state = [
            *(job.key for job in jobs[:1]), coordinator.fingerprint, partition.hash(), scenario.title, scenario.names,
            scenario.nodes["router"], scenario.nodes["decision"], *coordinator.metrics.values(),
        ]  # fmt: skip
        needed = [job for one in trained_for(scenario) for job in coordinator.jobs(cell, one)]
        if any(job.identifier in coordinator.failed for job in needed) or is_evaluated(file, state):
            coordinator.progress.forget(str(file))
            continue
        what = f"evaluation of {scenario.name}, N = {cell.n_identities}, seed {cell.seed}"
        with coordinator.progress.stage(str(file), what):
            write_cell(coordinator, file, {"state": state, **_evaluation(coordinator, cell, scenario)})


def evaluation_work(coordinator: Coordinator, cells: list[Cell], names: list[str]) -> dict[str, float]:
    """The work of each evaluation of a scenario or baseline, for `Progress`: about that of two epochs of training."""
    return {
        str(cell_file(coordinator, cell, name)): 2 * training_work(cell.n_identities, cell.n_subnets)
        for cell in cells for name in names
    }  # fmt: skip


def _evaluation(coordinator: Coordinator, cell: Cell, scenario: Scenario) -> dict[str, Any]:
    data, labels, metrics = coordinator.data(cell, scenario.refit), coordinator.labels(cell), coordinator.metrics
    embedding_set, splits = data.embedding_set, data.splits
    jobs, partition = coordinator.jobs(cell, scenario), coordinator.partition(cell, scenario)
    identifier = coordinator.identifier(cell, scenario)
    found = answers(identifier, embedding_set, splits.test)
    values, recall_K = measured(found.decided, splits.test, splits.n_identities, new_metrics(metrics))
    records = [job.record() for job in jobs]
    if any(record.get("rounded_gradients") for record in records):  # depends on the machine, so the report says it
        rounded = {scenario.name, *coordinator.run.manifest.get("rounded_gradients", [])}
        coordinator.run.note(soon=True, rounded_gradients=sorted(rounded))
    names, same_recipe = scenario.names, not coordinator.recipe_changes(scenario)
    of_cell = {**labels, "n_subnets": cell.n_subnets}
    of_scenario = {**of_cell, "scenario": scenario.name}
    row = {
        **of_scenario,
        "extractor": embedding_set.meta.get("extractor", ""),
        "n_subnets": partition.n_clusters,
        **{key: names[key] if records else "" for key in ("partitioner", "loss", "init")},
        "router": names["router"], "decision": names["decision"],
        **values,
        **training_columns(records),
        "query_microseconds": query_microseconds(identifier, embedding_set, splits.test),
        "train_samples": len(splits.train),
        "test_samples": len(splits.test),
    }  # fmt: skip
    clusters: list[dict] = []
    routing: list[dict] = []
    if partition.n_clusters > 1:
        if scenario.router is not None:
            router = identifier.router, names["router"]
            row |= _cluster_accuracies(coordinator, cell, scenario, identifier, *router)
        clusters = [] if scenario.refit else cluster_rows(
            partition, data.class_means_KD, recall_K, **of_cell, partitioner=names["partitioner"],
            order=int(scenario.router is None or scenario.router.needs_heads),
        )  # fmt: skip
        if records and same_recipe:
            routing = _routing(coordinator, cell, scenario, identifier)
    searches: tuple[list[dict], list[dict]] = [], []
    if len(splits.unknown):
        searches = open_set_rows(found, identifier, embedding_set, splits, **of_scenario)
    return {
        "row": row,
        "columns": [asdict(column) for column in metrics],
        "scenarios": [{"scenario": scenario.name, "title": scenario.title}],
        "history": history_rows(
            records, **labels, scenario_partition=names["partitioner"] if same_recipe else scenario.name,
        ),
        "clusters": clusters, "routing": routing,
        "errors": error_rows(found, recall_K, identifier, **of_scenario),
        "cmc": rank_rows(found, **of_scenario),
        "open_set": searches[0], "det": searches[1],
        "identities": hardest_identities(identifier.identities, recall_K, splits.test.labels, scenario.name),
    }  # fmt: skip


def cell_file(coordinator: Coordinator, cell: Cell, name: str) -> Path:
    """The file with the results of a scenario or a baseline in a cell."""
    plain = re.sub(r"[^\w.,=+()\[\]-]", "_", name)[:120]
    if plain != name:  # such as a value with a slash
        plain += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return coordinator.run.path / "cells" / f"N{cell.n_identities}-m{cell.n_subnets}-seed{cell.seed}-{plain}.json"


def write_cell(coordinator: Coordinator, file: Path, content: dict[str, Any]) -> None:
    """Writes the results of a scenario or a baseline, atomically."""
    make_folder(file.parent)
    write_sealed(file, content)
    coordinator.run.note_files(file)


def is_evaluated(file: Path, state: list[Any]) -> bool:
    """Whether a file has the results of that state."""
    content = _read_cell(file)
    return content is not None and content.get("state") == json.loads(json.dumps(state))


def _read_cell(file: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(file) if file.exists() else None
    except InputError as error:
        log.warning("%s; the cell is evaluated again if it is asked for", error)
        return None


def _cluster_accuracies(
    coordinator: Coordinator, cell: Cell, scenario: Scenario, identifier: Any, router: Router, name: str
) -> dict[str, float]:
    # Scenarios that share sub-networks share this too; max-max over all training samples takes the most time of all.
    if isinstance(router, NearestClass):
        router, name = NearestClass(), "nearest_class"  # the first of more clusters is the same
    partition = coordinator.partition(cell, scenario)
    jobs = coordinator.jobs(cell, scenario) if router.needs_heads else []
    settings = sorted((k, v) for k, v in vars(router).items() if not isinstance(v, torch.Tensor))
    key = (cell, scenario.refit, name, *[job.key for job in jobs[:1]], partition.hash(), str(settings))
    cache = coordinator.cluster_accuracies
    if key not in cache:
        data = coordinator.data(cell, scenario.refit)
        with coordinator.progress.stage(f"cluster accuracy of {name}, N = {cell.n_identities}, seed {cell.seed}"):
            cache[key] = {
                f"cluster_accuracy_{role}": cluster_accuracy(identifier, router, data.embedding_set, split)
                for role, split in (("train", data.splits.train), ("test", data.splits.test))
            }
    return cache[key]


def _routing(coordinator: Coordinator, cell: Cell, scenario: Scenario, identifier: Any) -> list[dict[str, Any]]:
    rows = []
    for name in ROUTERS_OF_TABLE_1:
        router = instantiate(load_node("router", name))
        rows.append({
            "dataset": coordinator.dataset, "n_identities": cell.n_identities, "n_subnets": cell.n_subnets,
            "partitioner": scenario.names["partitioner"], "router": name, "seed": cell.seed,
            **_cluster_accuracies(coordinator, cell, scenario, identifier, router, name),
        })  # fmt: skip
    return rows


def hardest_identities(
    identities: tuple[str, ...], recall_K: np.ndarray, test_labels: np.ndarray, scenario: str
) -> list[dict]:
    """Rows of details/identities.csv: the identities with the lowest recall.

    Args:
        recall_K: recall of each identity in percent.
        test_labels: (n,) identity of each test sample.
    """
    samples = np.bincount(test_labels, minlength=len(identities))
    order = np.lexsort((-samples, np.nan_to_num(recall_K, nan=np.inf)))[:HARDEST]
    return [
        {"identity": identities[i], "scenario": scenario, "recall": float(recall_K[i]), "test_samples": int(samples[i])}
        for i in order if samples[i]
    ]  # fmt: skip


def write_results(run_folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Joins `cells/*.json` into results.csv and details/*.csv; returns results.csv and details/skipped.csv."""
    cells = [cell for file in sorted((run_folder / "cells").glob("*.json")) if (cell := _read_cell(file)) is not None]
    further = from_rows([row for cell in cells for row in cell.get("columns", [])])
    columns = (*TABLE, *further)
    frame = pd.DataFrame([cell["row"] for cell in cells], columns=[column.name for column in columns])
    frame = frame.sort_values(["dataset", "n_identities", "n_subnets", "scenario", "seed"], ignore_index=True)
    frame = frame.astype({column.name: "Int64" for column in columns if column.holds == "whole"})
    frame.attrs[ADDED] = further
    write_text(run_folder / "results.csv", frame.to_csv(index=False, float_format="%.10g"))
    make_folder(run_folder / "details")
    for name in ("columns", "skipped"):  # they may be empty this time
        (run_folder / "details" / f"{name}.csv").unlink(missing_ok=True)
    for name in (*DETAILS, "skipped"):
        details = pd.DataFrame([row for cell in cells for row in cell.get(name, [])]).drop_duplicates(ignore_index=True)
        if name == "clusters" and len(details):
            # Scenarios with the same partition differ in recall; the one that routes by class means is shown.
            details = details.sort_values("order", kind="stable").drop(columns="order")
            same = ["n_identities", "n_subnets", "seed", "partitioner", "cluster"]
            details = details.drop_duplicates(same, ignore_index=True)
        if len(details):
            write_text(run_folder / "details" / f"{name}.csv", details.to_csv(index=False))
    return frame, details
