# SPDX-License-Identifier: MIT
"""Baselines in a comparison: fitted and evaluated cell by cell; each result is written as soon as it is known."""

import hashlib
import json
import logging
import time
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.cluster_datamodule import ClusterDataModule, batch_size
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import NOTHING, Split
from experiments.comparison.cells import cell_file, hardest_identities, is_evaluated, write_cell
from experiments.comparison.coordinator import Cell, Coordinator
from experiments.comparison.details import history_rows, training_columns
from experiments.comparison.entries import BaselineEntry, Entries, with_partitioner
from experiments.comparison.metrics import new_metrics
from experiments.comparison.scenarios import RECIPE, Scenario, make_scenario
from experiments.training.fit import fit
from experiments.training.job import Job, Recipe, failure_line
from lightning_modules.baselines.base import BaselineTask, Infeasible, Predictor
from lightning_modules.evaluation import evaluate, query_microseconds
from lightning_modules.subnetwork import SubNetwork

log = logging.getLogger(__name__)


def networks_of_baselines(entries: Entries, cfg: DictConfig) -> dict[str, list[Scenario]]:
    """The sub-networks that each baseline uses, by its name, as scenarios that the coordinator can train."""
    content = {"title": "of a baseline", "partitioner": "random", "router": "max_output", "decision": "argmax"}
    scenario = make_scenario("of a baseline", OmegaConf.create(content), cfg)
    found: dict[str, list[Scenario]] = {}
    for entry in entries.baselines:
        kinds = [(type(one), vars(one)) for one in entry.baseline.partitioners()]
        nodes = [{"_target_": f"{kind.__module__}.{kind.__qualname__}", **arguments} for kind, arguments in kinds]
        found[entry.name] = [with_partitioner(scenario, node) for node in nodes]
    return found


def evaluate_baselines(
    coordinator: Coordinator, cell: Cell, entries: Entries, networks: dict[str, list[Scenario]]
) -> None:
    """Fits and evaluates the baselines of a cell that are not evaluated yet, and writes each as `cells/*.json`.

    A baseline that cannot use the data, or whose package is missing, has a row without numbers, and the reason. One
    that fails is added to `coordinator.failed`. The networks are those of `networks_of_baselines`.

    Raises:
        DiskError: the disk is full, read-only or broken.
    """
    for name, reason in entries.missing.items():
        _skip(coordinator, cell, name, reason)
    for entry in entries.baselines:
        file, scenarios = cell_file(coordinator, cell, entry.name), networks[entry.name]
        partitions = [coordinator.partition(cell, scenario).hash() for scenario in scenarios]
        parts = {key: coordinator.run.config[key] for key in RECIPE}
        trainer = {**coordinator.trainer, "devices": 1, "strategy": "auto"}
        recipe = Recipe(**parts, trainer=trainer, seed=cell.seed, callbacks=coordinator.callbacks)
        state = [entry.node, recipe.key(coordinator.fingerprint, json.dumps(partitions)), cell.n_subnets]
        state += coordinator.metrics.values()
        jobs = chain.from_iterable(coordinator.jobs(cell, scenario) for scenario in scenarios)
        if any(job.identifier in coordinator.failed for job in jobs) or is_evaluated(file, state):
            coordinator.progress.forget(str(file))
            continue
        title = f"{coordinator.dataset} N={cell.n_identities} {entry.name} seed {cell.seed}"
        coordinator.console.print(title, highlight=False, soft_wrap=True)
        try:
            with coordinator.progress.stage(str(file), title):
                content = _fit_and_evaluate(coordinator, cell, entry, scenarios, recipe, title)
        except Infeasible as reason:
            _skip(coordinator, cell, entry.name, str(reason))
        except Exception as error:  # the other baselines go on
            coordinator.failed[title] = title, failure_line(error)
            log.exception("%s failed", title)
        else:
            write_cell(coordinator, file, {"state": state, **content})


def _skip(coordinator: Coordinator, cell: Cell, name: str, reason: str) -> None:
    row = {**coordinator.labels(cell), "scenario": name}
    content = {"state": None, "row": row, "skipped": [{**row, "reason": reason}]}
    write_cell(coordinator, cell_file(coordinator, cell, name), content)


def _fit_and_evaluate(
    coordinator: Coordinator, cell: Cell, entry: BaselineEntry, scenarios: list[Scenario], recipe: Recipe, title: str
) -> dict[str, Any]:
    data, labels = coordinator.data(cell), coordinator.labels(cell)
    embedding_set, splits = data.embedding_set, data.splits
    records: list[dict[str, Any]] = []  # of networks that the baseline trains itself

    def train_network(module: SubNetwork, targets_K: np.ndarray | None, stream: int) -> None:
        """As a sub-network is trained: same settings, same tracking; but without checkpoints."""
        labels_N = splits.train.labels if targets_K is None else targets_K[splits.train.labels]
        module.make_scheduler = instantiate(recipe.scheduler)
        job = Job(
            run=coordinator.run.path.name, run_folder=str(coordinator.run.path), data=str(embedding_set.path), split={},
            partition="", cluster=stream, recipe=recipe, title=title, tracking=coordinator.tracking_node,
            key=hashlib.sha256(f"{json.dumps(entry.node)}{cell}".encode()).hexdigest()[:12],
            facts={**labels, "scenario": entry.name},
        )  # fmt: skip
        train = Split(splits.train.rows, labels_N)
        size = batch_size(recipe.trainer["batch_size"], len(train))
        batches = ClusterDataModule(embedding_set.embeddings, train, NOTHING, size, cell.seed, stream)
        result = fit(job, module, batches, resume=False)
        module.cpu()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        records.append({"cluster": stream, "parameters": parameters, **result.facts})

    identifiers = [coordinator.identifier(cell, scenario) for scenario in scenarios]
    task = BaselineTask(
        train=data.train_samples,
        val=TrainingSamples(embedding_set.embeddings, NOTHING if coordinator.validation else splits.val),
        class_means_KD=data.class_means_KD,
        n_subnets=cell.n_subnets,
        seed=cell.seed,
        loss=instantiate(recipe.loss).fit(data.train_samples),
        init=instantiate(recipe.init),
        optimizer=lambda parameters: instantiate(recipe.optimizer)(parameters),
        train_network=train_network,
        ensembles=tuple((identifier.partition, identifier.heads) for identifier in identifiers),
        precision=coordinator.trainer["matmul"],
        max_logits_bytes=coordinator.trainer["max_logits_mb"] << 20,
    )
    started = time.perf_counter()
    predictor: Predictor = entry.baseline.fit(task)
    seconds = time.perf_counter() - started
    values, recall_K = evaluate(predictor, embedding_set, splits.test, new_metrics(coordinator.metrics))
    jobs = {job.stem: job.record() for scenario in scenarios for job in coordinator.jobs(cell, scenario)}
    row = {
        **labels, "extractor": embedding_set.meta.get("extractor", ""),
        "n_subnets": identifiers[0].partition.n_clusters if identifiers else 1, "scenario": entry.name,
        **values, **training_columns([*jobs.values(), *records]),
        "train_seconds": seconds + sum(record["seconds"] for record in jobs.values()),
        "query_microseconds": query_microseconds(predictor, embedding_set, splits.test),
        "parameters": predictor.parameters,
    }  # fmt: skip
    return {
        "row": row,
        "columns": [asdict(column) for column in coordinator.metrics],
        "history": history_rows(records, **labels, scenario_partition=entry.name),
        "identities": hardest_identities(data.identities, recall_K, splits.test.labels, entry.name),
    }
