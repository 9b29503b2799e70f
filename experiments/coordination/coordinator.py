# SPDX-License-Identifier: MIT
"""The coordinator: partition -> jobs -> trained sub-networks -> Identifier. Finished parts are never made twice.

Axes: K identities, M clusters, D embedding dimension.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Splits
from experiments.coordination import capacity
from experiments.coordination.data import dataset_name
from experiments.coordination.job import Job, Recipe
from experiments.coordination.ledger import Ledger
from experiments.coordination.networks import enrolled_data, head_description, trained_head
from experiments.coordination.progress import Progress
from experiments.coordination.run_folder import RunFolder
from experiments.coordination.scenarios import Scenario
from experiments.coordination.steps import few_steps
from lightning_modules.identifier import Identifier
from lightning_modules.scores import Heads

log = logging.getLogger(__name__)

FIT_PROBES = 8192  # validation probes that routers and decisions are fitted to, drawn from all


@dataclass(frozen=True)
class Cell:
    """One repetition at one size: N enrolled identities in m clusters, drawn and trained with one seed."""

    n_identities: int
    n_subnets: int
    seed: int


class Coordinator:
    """Knows the run folder, the data and the configuration, and which parts of the run are finished."""

    def __init__(self, run: RunFolder, embedding_set: EmbeddingSet, cfg: DictConfig, console: Console):
        self.run, self.embedding_set, self.console = run, embedding_set, console
        self.launcher = instantiate(cfg.launcher)
        self.tracking_node = OmegaConf.to_container(cfg.logger, resolve=True)
        self.trainer = OmegaConf.to_container(cfg.trainer, resolve=True)
        self.callbacks = OmegaConf.to_container(cfg.get("callbacks") or OmegaConf.create({}), resolve=True)
        self.split = OmegaConf.to_container(cfg.split, resolve=True)
        self.dataset = dataset_name(embedding_set)
        self.fingerprint = embedding_set.fingerprint()
        self._partitions: dict[str, tuple[Partition, Path]] = {}
        self.cluster_accuracies: dict[tuple, dict[str, float]] = {}  # of routers, shared by scenarios
        known = run.manifest.get("data_fingerprint", self.fingerprint)
        if known != self.fingerprint:
            raise InputError(
                f"data with fingerprint {self.fingerprint}", f"{known}, with which the run was begun",
                "choose another name=, or the same data",
            )  # fmt: skip
        run.note(dataset=self.dataset, data_fingerprint=self.fingerprint)  # before any part that depends on it

    def labels(self, cell: Cell) -> dict[str, Any]:
        """What every row of results begins with."""
        return {"dataset": self.dataset, "n_identities": cell.n_identities, "seed": cell.seed}

    def enrolled(self, cell: Cell) -> tuple[EmbeddingSet, Splits, np.ndarray]:
        """Set, splits and (K, D) class means of a cell."""
        return enrolled_data(str(self.embedding_set.path), tuple(sorted(self._split_of(cell).items())))

    def _split_of(self, cell: Cell) -> dict[str, Any]:
        return {**self.split, "n_identities": cell.n_identities, "seed": cell.seed}

    def partition_folder(self, cell: Cell, scenario: Scenario) -> Path:
        """Where the partition of a scenario in a cell lies."""
        content = [scenario.nodes["partitioner"], cell.n_subnets, self.fingerprint, self._split_of(cell)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        kind = scenario.names["partitioner"].partition("(")[0]
        name = f"N{cell.n_identities}-{kind}-m{cell.n_subnets}-seed{cell.seed}-{digest}"
        return self.run.path / "partitions" / name

    def partition(self, cell: Cell, scenario: Scenario) -> tuple[Partition, Path]:
        """The partition of a scenario in a cell, from disk or made and saved: before any training that needs it."""
        folder = self.partition_folder(cell, scenario)
        name = folder.name
        if name not in self._partitions:
            made = self._known_partition(folder)
            if made is None:
                started = time.perf_counter()
                embedding_set, splits, means_KD = self.enrolled(cell)
                samples = TrainingSamples(embedding_set.embeddings, splits.train)
                made = instantiate(scenario.nodes["partitioner"]).fit(means_KD, cell.n_subnets, cell.seed, samples)
                made.save(folder)
                log.info("%s in %.2f s", made.describe(), time.perf_counter() - started)
            self._note_partition(name, made, folder)
            self._partitions[name] = made, folder
        return self._partitions[name]

    def _known_partition(self, folder: Path) -> Partition | None:
        if not folder.exists():
            return None
        try:
            self.run.verify(folder)
            return Partition.load(folder)
        except InputError as error:
            log.warning("%s; the partition is made again", error)
            shutil.rmtree(folder)  # the same data and seed make the same partition
            return None

    def _note_partition(self, name: str, made: Partition, folder: Path) -> None:
        known = self.run.manifest.get("partitions", {})
        if known.get(name, made.hash()) != made.hash():
            log.warning("partition %s is not the one the run was begun with: what it needs is trained anew", name)
        if name not in known or known[name] != made.hash():
            self.run.note_files(*sorted(folder.iterdir()))
            self.run.note(partitions={**known, name: made.hash()})

    def jobs(self, cell: Cell, scenario: Scenario) -> list[Job]:
        """One job per cluster; scenarios with the same partition and recipe have the same jobs."""
        if not scenario.trains:
            return []
        partition, folder = self.partition(cell, scenario)
        trainer = {**self.trainer, **scenario.trainer}
        recipe = Recipe(**scenario.recipe, trainer=trainer, seed=cell.seed, callbacks=self.callbacks)
        data = f"{self.fingerprint}{json.dumps(self._split_of(cell), sort_keys=True)}"
        key, lineage = recipe.key(data, partition.hash()), recipe.lineage(data, partition.hash())
        named = {key: scenario.names[key] for key in ("partitioner", "loss", "init")}
        facts = {"dataset": self.dataset, "n_identities": cell.n_identities, "n_subnets": partition.n_clusters, **named}
        what = " ".join([
            f"{self.dataset} N={cell.n_identities} {named['partitioner']} m={partition.n_clusters} {named['loss']}",
            *(own for own in self.own_recipe(scenario) if own != named["loss"]), f"seed {cell.seed}",
        ])  # fmt: skip
        return [
            Job(
                run=self.run.path.name, run_folder=str(self.run.path), data=str(self.embedding_set.path.absolute()),
                split=self._split_of(cell), partition=str(folder), cluster=cluster, recipe=recipe, key=key,
                title=f"{what} cluster {cluster}", tracking=self.tracking_node,
                facts={**facts, "classes": int(size)}, lineage=lineage,
            )
            for cluster, size in enumerate(partition.sizes())
        ]  # fmt: skip

    def own_recipe(self, scenario: Scenario) -> list[str]:
        """What of a scenario's recipe is not the run's, such as ["sgd", "max_epochs=1"]."""
        config = self.run.config
        nodes = [scenario.names[group] for group, node in scenario.recipe.items() if node != config.get(group, node)]
        return [*nodes, *(f"{key}={value}" for key, value in scenario.trainer.items() if value != self.trainer[key])]

    def train(self, work: Iterable[tuple[Cell, Scenario]]) -> dict[str, tuple[str, str]]:
        """Trains every sub-network that the given cells and scenarios need and that is not on disk.

        Args:
            work: pairs of a cell and a scenario; what they share is trained once.

        Returns:
            For each sub-network that failed, by `Job.identifier`, its title and why.
        """
        jobs = {job.stem: job for cell, scenario in work for job in self.jobs(cell, scenario)}
        ledger = Ledger(self.run, list(jobs.values()))
        missing = ledger.missing
        if missing:
            needed = self._need(missing)
            self.console.print(f"{len(missing)} sub-networks to train: {needed}", highlight=False, soft_wrap=True)
            if warning := self._few_steps(missing):
                self.console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
            held = capacity.held_memory() if self.launcher.trains_here else 0
            capacity.check(needed, self.run.path, self._on_gpu, held)
        with Progress(self.console, len(missing), self.trainer["max_epochs"]) as progress:
            if len(missing) < len(jobs):
                progress.say(f"{len(jobs) - len(missing)} of {len(jobs)} sub-networks are trained already")
            reasons = self.launcher.run(missing, ledger.watching(progress)) if missing else {}
        ledger.close(reasons)
        return {job.identifier: (job.title, reasons[job.identifier]) for job in missing if job.identifier in reasons}

    def _few_steps(self, jobs: list[Job]) -> str | None:
        # About three fifths of what there is train: to know it exactly would cost a pass over the data for each cell.
        each = len(self.embedding_set) / self.embedding_set.n_identities
        uninformed = [job for job in jobs if job.facts["classes"] > 1 and not instantiate(job.recipe.init).informed]
        samples = {job.title: max(1, round(0.6 * each * job.facts["classes"])) for job in uninformed}
        return few_steps(self.trainer["batch_size"], self.trainer["max_epochs"], samples)

    @property
    def _on_gpu(self) -> bool:
        return self.trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()

    def _need(self, jobs: list[Job]) -> capacity.Need:
        data = self.embedding_set
        classes = [job.facts["classes"] for job in jobs]
        samples = [count * len(data) // data.n_identities for count in classes]
        at_once = self.launcher.at_once(self.trainer["devices"])
        on_one_gpu = self.launcher.on_one_gpu(self.trainer["devices"], len(jobs)) if self._on_gpu else 1
        optimizers = {json.dumps(job.recipe.optimizer): job.recipe.optimizer for job in jobs}.values()
        moments = max(capacity.moments_of(instantiate(dict(node))) for node in optimizers)
        nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
        grow = sum(job.recipe.grows for job in jobs)
        return capacity.need(classes, samples, data.dim, self.trainer, at_once, moments, on_one_gpu, nodes, grow)

    def identifier(self, cell: Cell, scenario: Scenario) -> Identifier:
        """Assembles the trained parts of a scenario, router and decision fitted to training and validation samples."""
        embedding_set, splits, means_KD = self.enrolled(cell)
        partition, _ = self.partition(cell, scenario)
        jobs = self.jobs(cell, scenario)
        heads = (trained_head(job) for job in jobs)
        made = Identifier(
            identities=tuple(self.embedding_set.identities[label] for label in splits.enrolled),
            class_means_KD=torch.from_numpy(means_KD),
            partition=partition,
            decision=scenario.decision,
            router=scenario.router if partition.n_clusters > 1 else None,
            heads=Heads.pack(partition, heads, head_description(jobs[0])) if jobs else None,
            provenance={
                "scenario": scenario.name, "dataset": self.dataset, "data_fingerprint": self.fingerprint,
                "split": self._split_of(cell), **{k: v for k, v in scenario.names.items() if v},
                "extractor": self.embedding_set.meta.get("extractor", ""),
                "recipe": self.embedding_set.meta.get("recipe"), "data_path": str(self.embedding_set.path.resolve()),
                "training": asdict(jobs[0].recipe) if jobs else None,
            },
        )  # fmt: skip
        return fitted(made, embedding_set, splits, cell.seed) if made.needs_fit else made


def fitted(identifier: Identifier, embedding_set: EmbeddingSet, splits: Splits, seed: int) -> Identifier:
    """Fits router and decision to training samples and up to 8,192 validation samples, drawn."""
    val_BD, truth_B = TrainingSamples(embedding_set.embeddings, splits.val).drawn(FIT_PROBES, seed)
    samples = TrainingSamples(embedding_set.embeddings, splits.train)
    return identifier.fitted(samples, torch.from_numpy(val_BD), torch.from_numpy(truth_B.astype(np.int64)), seed)
