# SPDX-License-Identifier: MIT
"""Baselines in a comparison: fitted and evaluated cell by cell, each kept on disk as soon as it is known."""

import hashlib
import json
import logging
import time
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from experiments.coordination.comparison import cell_file, evaluate, finished, hardest, keep
from experiments.coordination.coordinator import Cell, Coordinator
from experiments.coordination.evaluation import history_rows, query_microseconds, training_columns
from experiments.coordination.job import Job, Recipe
from experiments.coordination.lineup import Lineup, Rival, with_partitioner
from experiments.coordination.scenarios import RECIPE, Scenario, make_scenario
from experiments.coordination.steps import batch_size
from experiments.reporting.columns import Column
from experiments.training.fit import fit
from lightning_modules.baselines.base import Infeasible, Predictor, Task
from lightning_modules.subnetwork import SubNetwork

log = logging.getLogger(__name__)


def scenarios_below(lineup: Lineup, cfg: DictConfig) -> dict[str, list[Scenario]]:
    """The sub-networks that rivals stand on, as scenarios for the coordinator to train with all others.

    Returns:
        For each rival, by name, a scenario for each of its partitioners.
    """
    frame = {"title": "below a baseline", "partitioner": "random", "router": "max_output", "decision": "argmax"}
    common = make_scenario("below", OmegaConf.create(frame), cfg)
    return {
        rival.name: [with_partitioner(common, _node(one)) for one in rival.baseline.partitioners()]
        for rival in lineup.rivals
    }


def _node(partitioner: Partitioner) -> dict[str, Any]:
    kind = type(partitioner)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **vars(partitioner)}


def evaluate_rivals(
    coordinator: Coordinator, cell: Cell, lineup: Lineup, below: dict[str, list[Scenario]], cfg: DictConfig,
    failed: dict[str, tuple[str, str]], metrics: dict[Column, dict[str, Any]],
) -> None:  # fmt: skip
    """Fits and evaluates the rivals of a cell that are not evaluated yet and keeps each as `cells/*.json`.

    A rival that cannot do with the data, and a name that cannot take part, leave a row without numbers and the reason.

    Args:
        below: see `scenarios_below`.
        failed: parts that failed, by identifier, title and reason; a rival that fails is added.
        metrics: further ones, see `evaluation.load_metrics`.
    """
    for name, reason in lineup.missing.items():
        _skip(coordinator, cell, name, reason)
    for rival in lineup.rivals:
        file = cell_file(coordinator, cell, rival.name)
        partitions = [coordinator.partition(cell, scenario)[0].hash() for scenario in below[rival.name]]
        parts = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in RECIPE}
        trainer = {**coordinator.trainer, "devices": 1, "strategy": "auto"}
        recipe = Recipe(**parts, trainer=trainer, seed=cell.seed, callbacks=coordinator.callbacks)
        state = [rival.node, recipe.key(coordinator.fingerprint, json.dumps(partitions)), cell.n_subnets]
        state += metrics.values()
        jobs = chain.from_iterable(coordinator.jobs(cell, scenario) for scenario in below[rival.name])
        if any(job.identifier in failed for job in jobs) or finished(file, state):
            continue
        title = f"{coordinator.dataset} N={cell.n_identities} {rival.name} seed {cell.seed}"
        coordinator.console.print(title, highlight=False, soft_wrap=True)
        try:
            content = _fit_and_evaluate(coordinator, cell, rival, below[rival.name], recipe, title, metrics)
        except Infeasible as reason:
            _skip(coordinator, cell, rival.name, str(reason))
        except Exception as error:  # one rival that fails must not cost the others
            log.exception("%s failed", title)
            failed[title] = title, " ".join(f"{type(error).__name__}: {error}".split())
        else:
            keep(coordinator, file, {"state": state, **content})


def _skip(coordinator: Coordinator, cell: Cell, name: str, reason: str) -> None:
    row = {**coordinator.labels(cell), "scenario": name}
    content = {"state": None, "row": row, "skipped": [{**row, "reason": reason}]}
    keep(coordinator, cell_file(coordinator, cell, name), content)


def _fit_and_evaluate(
    coordinator: Coordinator, cell: Cell, rival: Rival, below: list[Scenario], recipe: Recipe, title: str,
    metrics: dict[Column, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    embedding_set, splits, means_KD = coordinator.enrolled(cell)
    records: list[dict[str, Any]] = []
    identifiers = [coordinator.identifier(cell, scenario) for scenario in below]
    trainer = coordinator.trainer
    task = Task(
        train=TrainingSamples(embedding_set.embeddings, splits.train),
        val=TrainingSamples(embedding_set.embeddings, splits.val),
        class_means_KD=means_KD,
        n_subnets=cell.n_subnets,
        seed=cell.seed,
        loss=instantiate(recipe.loss),
        init=instantiate(recipe.init),
        optimizer=lambda parameters: instantiate(recipe.optimizer)(parameters),
        train_network=partial(_train_network, coordinator, cell, rival, recipe, title, records),
        ensembles=tuple((identifier.partition, identifier.heads) for identifier in identifiers),
        precision=trainer["matmul"],
        max_logits_bytes=trainer["max_logits_mb"] << 20,
    )
    started = time.perf_counter()
    predictor: Predictor = rival.baseline.fit(task)
    seconds = time.perf_counter() - started
    values, recall_K = evaluate(predictor, embedding_set, splits.test, metrics)
    labels = coordinator.labels(cell)
    jobs = {job.stem: job.record() for scenario in below for job in coordinator.jobs(cell, scenario)}
    trained = [*jobs.values(), *records]
    row = {
        **labels, "extractor": embedding_set.meta.get("extractor", ""),
        "n_subnets": identifiers[0].partition.n_clusters if identifiers else 1, "scenario": rival.name,
        **values, **training_columns(trained),
        "train_seconds": seconds + sum(record["seconds"] for record in jobs.values()),
        "query_microseconds": query_microseconds(predictor, embedding_set, splits.test),
        "parameters": predictor.parameters,
    }  # fmt: skip
    identities = tuple(embedding_set.identities[label] for label in splits.enrolled)
    return {
        "row": row,
        "columns": [asdict(column) for column in metrics],
        "history": history_rows(records, **labels, scenario_partition=rival.name),
        "identities": hardest(identities, recall_K, splits.test.labels, rival.name),
    }


def _train_network(
    coordinator: Coordinator, cell: Cell, rival: Rival, recipe: Recipe, title: str, records: list[dict[str, Any]],
    module: SubNetwork, targets_K: np.ndarray | None, stream: int,
) -> None:  # fmt: skip
    """Trains a network of a baseline as a sub-network is trained: same settings, same tracking, no checkpoints."""
    embedding_set, splits, _ = coordinator.enrolled(cell)
    labels_N = splits.train.labels if targets_K is None else targets_K[splits.train.labels]
    module.make_scheduler = instantiate(recipe.scheduler)
    key = hashlib.sha256(f"{json.dumps(rival.node)}{cell}".encode()).hexdigest()[:12]
    job = Job(
        run=coordinator.run.path.name, run_folder=str(coordinator.run.path), data=str(embedding_set.path), split={},
        partition="", cluster=stream, recipe=recipe, key=key, title=title, tracking=coordinator.tracking_node,
        facts={**coordinator.labels(cell), "scenario": rival.name},
    )  # fmt: skip
    train, nothing = Split(splits.train.rows, labels_N), Split(np.zeros(0, np.int64), np.zeros(0, np.int32))
    size = batch_size(recipe.trainer["batch_size"], len(train))
    data = ClusterDataModule(embedding_set.embeddings, train, nothing, size, cell.seed, stream)
    fitted = fit(job, module, data, resume=False)
    module.cpu()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    records.append({"cluster": stream, "parameters": parameters, **fitted.facts})
