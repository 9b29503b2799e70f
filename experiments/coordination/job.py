# SPDX-License-Identifier: MIT
"""Job: everything a worker needs to train one sub-network, as plain values; and what it leaves on disk."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from callbacks.epoch_checkpoint import epoch_files, read_checkpoint, write_checkpoint
from datamodules.errors import InputError
from datamodules.files import atomic_file, make_folder, read_sealed, sha256, write_sealed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How sub-networks are trained; with the partition and the data it fixes the weights.

    Attributes:
        loss, init, optimizer: Hydra nodes with `_target_`.
        trainer: the values of `schema.TrainerConfig`.
        seed: of initial weights and batch order.
        active_classes: Hydra node, which classes compete in a step.
    """

    loss: dict[str, Any]
    init: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    active_classes: dict[str, Any] = field(
        default_factory=lambda: {"_target_": "lightning_modules.active_classes.EveryClass"}
    )

    # What changes where or how fast a sub-network is trained, but not its weights, stays out of the key.
    _not_in_key = (
        "accelerator",
        "threads",
        "max_logits_mb",
        "strategy",
        "devices",
        "checkpoint_every_n_epochs",
        "stack",
    )

    def key(self, data: str, partition: str) -> str:
        """A hash of recipe, data fingerprint and partition hash: equal keys mean equal weights."""
        trainer = {name: value for name, value in self.trainer.items() if name not in self._not_in_key}
        content = json.dumps({**asdict(self), "trainer": trainer, "data": data, "partition": partition}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One network to train. Plain values only: a launcher sends it to another process as JSON.

    Attributes:
        run: name of the run, the group of its dashboard.
        run_folder: absolute path of the run folder.
        data: folder of the EmbeddingSet.
        split: arguments of `datamodules.splits.split_identities`.
        partition: folder of the Partition.
        cluster: which cluster to train.
        recipe: how.
        key: `Recipe.key` of data and partition.
        title: what people call it, such as "omniglot N=1623 kmeans m=2 seed 0 cluster 1".
        tracking: Hydra node of the tracking.
        facts: labels for the dashboard: data set, N, m, partitioner.
        entry: the function that trains it, given the job and an `EpochReport`, by its dotted name.
    """

    run: str
    run_folder: str
    data: str
    split: dict[str, Any]
    partition: str
    cluster: int
    recipe: Recipe
    key: str
    title: str
    tracking: dict[str, Any]
    facts: dict[str, Any]
    entry: str = "experiments.coordination.training.train"

    @property
    def stem(self) -> Path:
        """Path without suffix of the files this job leaves: `.safetensors` (weights) and `.json` (record)."""
        return Path(self.run_folder) / "subnetworks" / self.key / f"{self.cluster:05d}"

    @property
    def copy(self) -> Path:
        """A second copy of weights and record in one file: damage to either costs no training."""
        return Path(self.run_folder) / "copies" / self.key / f"{self.cluster:05d}.safetensors"

    @cached_property
    def identifier(self) -> str:
        """A name that is the same for the same sub-network of the same run, wherever and however often it runs."""
        return hashlib.sha256(f"{self.run_folder}/{self.key}/{self.cluster}".encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job | Stack":
        """The job, or stack of jobs, that `to_json` wrote.

        Args:
            text: what `to_json` gave.
        """
        content = json.loads(text)
        if "stack" in content:
            return Stack(tuple(cls._of(job) for job in content["stack"]))
        return cls._of(content)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "Job":
        return cls(**{**content, "recipe": Recipe(**content["recipe"])})

    def finish(self, weights: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
        """Leaves a finished sub-network on disk: the copy, `<stem>.safetensors`, then `<stem>.json`, which counts.

        A process that dies before the copy is whole goes on from the last checkpoint; after it, nothing is trained.

        Args:
            weights: names and values.
            record: what to say of the training, as JSON values.

        Returns:
            The record with the SHA-256 of the weights.
        """
        json.dumps(record, allow_nan=False)  # refused before anything is written
        weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        write_checkpoint(self.copy, weights, {"key": self.key, "record": record}, sync=True)
        record = self._keep(weights, record)
        for file in epoch_files(self.stem).values():
            file.unlink(missing_ok=True)
        return record

    def record(self) -> dict[str, Any] | None:
        """What the finished job wrote about itself; None where it is not finished or its files are not intact."""
        record_file, weights = self.stem.with_suffix(".json"), self.stem.with_suffix(".safetensors")
        if not (record_file.is_file() and weights.is_file()):
            return None
        try:
            record = read_sealed(record_file)
        except InputError as error:
            log.warning("%s", error)
            return None
        if record.get("sha256") != sha256(weights):
            log.warning("%s, altered", weights)
            return None
        return record

    def restore(self) -> dict[str, Any] | None:
        """Makes weights and record anew from their copy; None where that is missing or damaged too."""
        if not self.copy.is_file():
            return None
        try:
            weights, facts = read_checkpoint(self.copy, self.key)
        except InputError as error:
            log.warning("%s; the sub-network is trained again", error.got)
            return None
        log.info("%s: restored from its copy", self.title)
        return self._keep(weights, facts["record"])

    def _keep(self, weights: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
        make_folder(self.stem.parent)
        file = self.stem.with_suffix(".safetensors")
        with atomic_file(file) as temporary:
            safetensors.torch.save_file(weights, temporary)
        record = {**record, "sha256": sha256(file)}
        write_sealed(self.stem.with_suffix(".json"), record)
        return record


@dataclass(frozen=True)
class Stack:
    """Jobs of one recipe that are trained together; to a launcher it is one job.

    Attributes:
        jobs: at least two.
    """

    jobs: tuple[Job, ...]

    @property
    def title(self) -> str:
        """The first job's, up to the last cluster."""
        return f"{self.jobs[0].title} to {self.jobs[-1].cluster}"

    @property
    def recipe(self) -> Recipe:
        """Of all jobs."""
        return self.jobs[0].recipe

    @property
    def run_folder(self) -> str:
        """Of all jobs."""
        return self.jobs[0].run_folder

    @property
    def identifier(self) -> str:
        """Differs from that of each job."""
        return f"{self.jobs[0].identifier}+{len(self.jobs) - 1}"

    def to_json(self) -> str:
        """The stack as JSON."""
        return json.dumps({"stack": [asdict(job) for job in self.jobs]})
