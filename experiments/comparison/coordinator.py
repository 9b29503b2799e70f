# SPDX-License-Identifier: MIT
"""The coordinator: partition -> jobs -> trained sub-networks -> Identifier. Finished parts are not made again.

Axes: K identities, M clusters, D embedding dimension.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from callbacks.epoch_clock import kernel_bytes
from datamodules.embedding_set import UNKNOWN, EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import NOTHING, Splits
from experiments.comparison.data import dataset_name
from experiments.comparison.multirun import in_multirun, take_from_siblings
from experiments.comparison.scenarios import Scenario
from experiments.reporting.columns import Column
from experiments.reporting.methods import VALIDATION
from experiments.runs.job_states import JobStates
from experiments.runs.run_folder import RunFolder
from experiments.training import capacity
from experiments.training.batch_size import few_steps_warning
from experiments.training.build import head_description, trained_head
from experiments.training.cluster_data import SplitData
from experiments.training.job import EpochReport, Job, Recipe
from experiments.training.progress import Progress, Watchers, amount_of_work
from experiments.training.train import train
from lightning_modules.identifier import Identifier
from lightning_modules.scores import Heads

log = logging.getLogger(__name__)

FIT_PROBES = 8192  # validation probes, drawn, on which decisions are fitted


@dataclass(frozen=True)
class Cell:
    """One repetition at one size: N enrolled identities in m clusters, drawn and trained with one seed."""

    n_identities: int
    n_subnets: int
    seed: int


class Coordinator:
    """Makes the parts of a run, in its folder, from data and configuration.

    Attributes:
        failed: title and reason of each part that failed, by identifier.
        metrics: further metrics, see `metrics.load_metrics`.
        progress: shows which part is made.
        validation: whether results are computed on validation samples; they take the place of the test samples.
    """

    def __init__(
        self, run: RunFolder, embedding_set: EmbeddingSet, cfg: DictConfig, console: Console,
        metrics: dict[Column, dict[str, Any]] | None = None,
    ):  # fmt: skip
        self.run, self.embedding_set, self.console, self.metrics = run, embedding_set, console, metrics or {}
        self.failed: dict[str, tuple[str, str]] = {}
        self.progress = Progress(console, {})
        self.launcher = instantiate(cfg.launcher)
        self.tracking_node = OmegaConf.to_container(cfg.logger, resolve=True)
        self.trainer = OmegaConf.to_container(cfg.trainer, resolve=True)
        self.callbacks = OmegaConf.to_container(cfg.get("callbacks") or OmegaConf.create({}), resolve=True)
        self.split = OmegaConf.to_container(cfg.split, resolve=True)
        self.validation = cfg.get("evaluate") == "validation"
        self.dataset = dataset_name(embedding_set) + VALIDATION * self.validation
        self.fingerprint = embedding_set.fingerprint()
        self._data: dict[tuple[int, int, bool], SplitData] = {}
        self._partitions: dict[Path, Partition] = {}
        self.cluster_accuracies: dict[tuple, dict[str, float]] = {}  # of routers, shared by scenarios
        known = run.manifest.get("data_fingerprint", self.fingerprint)
        if known != self.fingerprint:
            raise InputError(
                f"data with fingerprint {self.fingerprint}", f"{known}, with which the run was begun",
                "choose another name=, or the same data",
            )  # fmt: skip
        run.note(dataset=self.dataset, data_fingerprint=self.fingerprint)  # before any part that depends on it

    def labels(self, cell: Cell) -> dict[str, Any]:
        """The first columns of every row of results."""
        return {"dataset": self.dataset, "n_identities": cell.n_identities, "seed": cell.seed}

    def data(self, cell: Cell, refit: bool = False) -> SplitData:
        """The data of a cell, or those on which its scenarios are trained again; the last two stay in memory."""
        key = cell.n_identities, cell.seed, refit
        if key not in self._data:
            if len(self._data) == 2:
                self._data.pop(next(iter(self._data)))
            with self.progress.stage(f"splits and class means, N = {cell.n_identities}, seed {cell.seed}"):
                made = SplitData.make(self.embedding_set, self._split_of(cell, refit))
            if self.validation:
                made = replace(made, splits=replace(made.splits, test=made.splits.val))
            self._data[key] = made
        return self._data[key]

    def _split_of(self, cell: Cell, refit: bool = False) -> dict[str, Any]:
        # Without `refit` as before: the split is part of the keys of sub-networks.
        again = {"refit": True} if refit else {}
        return {**self.split, "n_identities": cell.n_identities, "seed": cell.seed, **again}

    def partition_folder(self, cell: Cell, scenario: Scenario) -> Path:
        """The folder of the partition of a scenario in a cell."""
        content = [scenario.nodes["partitioner"], cell.n_subnets, self.fingerprint, self._split_of(cell)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        kind = scenario.names["partitioner"].partition("(")[0]
        place = f"N{cell.n_identities}-{kind}-m{cell.n_subnets}-seed{cell.seed}-{digest}"
        return self.run.path / "partitions" / place

    def partition(self, cell: Cell, scenario: Scenario) -> Partition:
        """The partition of a scenario in a cell, from disk or made and saved."""
        folder = self.partition_folder(cell, scenario)
        if folder not in self._partitions:
            made = None
            if folder.exists():
                try:
                    self.run.verify(folder)
                    made = Partition.load(folder)
                except InputError as error:
                    log.warning("%s; the partition is made again", error)
                    shutil.rmtree(folder)  # the same data and seed make the same partition
            if made is None:
                started, data = time.perf_counter(), self.data(cell)
                partitioner = instantiate(scenario.nodes["partitioner"])
                with self.progress.stage(f"partition {folder.name}"):
                    made = partitioner.fit(data.class_means_KD, cell.n_subnets, cell.seed, data.train_samples)
                made.save(folder)
                log.info("%s in %.2f s", made.describe(), time.perf_counter() - started)
            name, known = folder.name, self.run.manifest.get("partitions", {})
            if known.get(name, made.hash()) != made.hash():
                log.warning("partition %s is not the one the run was begun with: what it needs is trained anew", name)
            if known.get(name) != made.hash():
                self.run.note_files(*sorted(folder.iterdir()))
                self.run.note(partitions={**known, name: made.hash()})
            self._partitions[folder] = made
        return self._partitions[folder]

    def jobs(self, cell: Cell, scenario: Scenario) -> list[Job]:
        """One job per cluster; the same jobs for scenarios with the same partition and recipe."""
        if not scenario.trains:
            return []
        partition, folder = self.partition(cell, scenario), self.partition_folder(cell, scenario)
        trainer = {**self.trainer, **scenario.trainer}
        recipe = Recipe(**scenario.recipe, trainer=trainer, seed=cell.seed, callbacks=self.callbacks)
        split = self._split_of(cell, scenario.refit)
        data = f"{self.fingerprint}{json.dumps(split, sort_keys=True)}"
        key, lineage = recipe.key(data, partition.hash()), recipe.lineage(data, partition.hash())
        named = {key: scenario.names[key] for key in ("partitioner", "loss", "init")}
        facts = {"dataset": self.dataset, "n_identities": cell.n_identities, "n_subnets": partition.n_clusters, **named}
        what = " ".join([
            f"{self.dataset} N={cell.n_identities} {named['partitioner']} m={partition.n_clusters} {named['loss']}",
            *(change for change in self.recipe_changes(scenario) if change != named["loss"]), f"seed {cell.seed}",
        ])  # fmt: skip
        return [
            Job(
                run=self.run.path.name, run_folder=str(self.run.path), data=str(self.embedding_set.path.absolute()),
                split=split, partition=str(folder), cluster=cluster, recipe=recipe, key=key,
                title=f"{what} cluster {cluster}", tracking=self.tracking_node,
                facts={**facts, "classes": int(size)}, lineage=lineage,
            )
            for cluster, size in enumerate(partition.sizes())
        ]  # fmt: skip

    def recipe_changes(self, scenario: Scenario) -> list[str]:
        """The parts in which a scenario's recipe differs from the run's, such as ["sgd", "max_epochs=1"]."""
        config = self.run.config
        nodes = [scenario.names[group] for group, node in scenario.recipe.items() if node != config.get(group, node)]
        trainer = [f"{key}={value}" for key, value in scenario.trainer.items() if value != self.trainer[key]]
        return [*nodes, *trainer, *(["refit"] if scenario.refit else [])]

    def train_missing(self, work: Iterable[tuple[Cell, Scenario]]) -> dict[str, tuple[str, str]]:
        """Trains the sub-networks that cells and scenarios need and that are not on disk; returns `failed`."""
        needed = {
            job.stem: (job, cell, one) for cell, scenario in work for one in trained_for(scenario)
            for job in self.jobs(cell, one)
        }  # fmt: skip
        if in_multirun():
            take_from_siblings((job for job, _, _ in needed.values()), self.run.path)
        used_by = {job.identifier: (cell, scenario) for job, cell, scenario in needed.values()}
        states = JobStates(self.run, [job for job, _, _ in needed.values()])
        if missing := states.missing:
            self._announce(missing)
        self.progress.expect({job.identifier: amount_of_work(job) for job in missing}, self.progress.noun)
        with self.progress as progress:
            if len(missing) < len(needed):
                progress.say(f"{len(needed) - len(missing)} of {len(needed)} sub-networks are trained already")

            def train_here(job: Job, report: EpochReport | None) -> None:
                cell, scenario = used_by[job.identifier]
                data = self.data(cell, scenario.refit)
                train(job, data.cluster(self.partition(cell, scenario), job.cluster), report)

            if missing:
                self.launcher.run(missing, Watchers(states, progress), train_here)
        self.failed |= states.failed
        return self.failed

    def _announce(self, missing: list[Job]) -> None:
        data, devices = self.embedding_set, self.trainer["devices"]
        on_gpu = self.trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        classes = [job.facts["classes"] for job in missing]
        optimizers = {json.dumps(job.recipe.optimizer): job.recipe.optimizer for job in missing}.values()
        needed = capacity.estimate(
            classes, [count * len(data) // data.n_identities for count in classes], data.dim, self.trainer,
            at_once=self.launcher.at_once(devices),
            moments=max(capacity.moments_of(instantiate(dict(node))) for node in optimizers),
            on_one_gpu=self.launcher.on_one_gpu(devices, len(missing)) if on_gpu else 1,
            nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)), grow=sum(job.recipe.grows for job in missing),
        )  # fmt: skip
        self.console.print(f"{len(missing)} sub-networks to train: {needed}", highlight=False, soft_wrap=True)
        # About three fifths of the samples are for training; an exact count would take a pass over the data per cell.
        each = 0.6 * len(data) / data.n_identities
        uninformed = [job for job in missing if job.facts["classes"] > 1 and not instantiate(job.recipe.init).informed]
        samples = {job.title: max(1, round(each * job.facts["classes"])) for job in uninformed}
        if warning := few_steps_warning(self.trainer["batch_size"], self.trainer["max_epochs"], samples):
            self.console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
        held = (kernel_bytes("RssAnon") or 0) if self.launcher.trains_here else 0
        capacity.check_fits(needed, self.run.path, on_gpu, held)

    def identifier(self, cell: Cell, scenario: Scenario) -> Identifier:
        """The Identifier of a scenario: its trained parts, with the decision fitted."""
        data, partition, jobs = (
            self.data(cell, scenario.refit),
            self.partition(cell, scenario),
            self.jobs(cell, scenario),
        )
        heads = (trained_head(job) for job in jobs)
        made = Identifier(
            identities=data.identities,
            class_means_KD=torch.from_numpy(data.class_means_KD),
            partition=partition,
            decision=scenario.decision,
            router=scenario.router if partition.n_clusters > 1 else None,
            heads=Heads.pack(partition, heads, head_description(jobs[0])) if jobs else None,
            unknown=self.embedding_set.meta.get("unknown", UNKNOWN),
            provenance={
                "scenario": scenario.name, "dataset": self.dataset, "data_fingerprint": self.fingerprint,
                "split": self._split_of(cell, scenario.refit), **{k: v for k, v in scenario.names.items() if v},
                "extractor": self.embedding_set.meta.get("extractor", ""),
                "recipe": self.embedding_set.meta.get("recipe"), "data_path": str(self.embedding_set.path.resolve()),
                "training": asdict(jobs[0].recipe) if jobs else None,
            },
        )  # fmt: skip
        if not scenario.decision.needs_fit:
            return made
        if scenario.refit:
            return refitted(made, self.identifier(cell, scenario.chosen), data.train_samples)
        with self.progress.stage(f"fit of {scenario.name}, N = {cell.n_identities}, seed {cell.seed}"):
            splits = replace(data.splits, val=NOTHING) if self.validation else data.splits
            return fit_identifier(made, data.embedding_set, splits, cell.seed)


def trained_for(scenario: Scenario) -> list[Scenario]:
    """The scenarios whose sub-networks a scenario needs: its own, and those by which it is fitted before `refit`."""
    return [scenario, scenario.chosen] if scenario.refit and scenario.decision.needs_fit else [scenario]


def refitted(identifier: Identifier, chosen: Identifier, samples: TrainingSamples) -> Identifier:
    """An identifier with the fitted decision of `chosen`, of the same clusters; evidence from `samples`."""
    return replace(identifier, decision=chosen.decision.refit(identifier.class_means_KD, samples))


def fit_identifier(identifier: Identifier, embedding_set: EmbeddingSet, splits: Splits, seed: int) -> Identifier:
    """Fits the decision to the training samples and up to 8,192 validation samples, drawn."""
    val_BD, truth_B = TrainingSamples(embedding_set.embeddings, splits.val).drawn(FIT_PROBES, seed)
    samples = TrainingSamples(embedding_set.embeddings, splits.train)
    return identifier.fitted(samples, torch.from_numpy(val_BD), torch.from_numpy(truth_B.astype(np.int64)))
