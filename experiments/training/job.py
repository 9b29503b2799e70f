# SPDX-License-Identifier: MIT
"""Job: everything that a worker needs to train one sub-network, as plain values, and the files that it leaves."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from hydra.utils import get_class
from torch import Tensor

from callbacks.checkpoints import epoch_files
from datamodules.errors import InputError
from datamodules.files import atomic_file, disk_error, make_folder, read_sealed, sha256, write_sealed
from experiments.command_line.trainer_arguments import CONSTANT

log = logging.getLogger(__name__)

EVERY_CLASS = "lightning_modules.active_classes.EveryClass"
LINEAR_HEAD = "lightning_modules.heads.linear.LinearHead"
EpochReport = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch: epochs done, epochs in all, values logged so far by name."""
Training = Callable[["Job", EpochReport | None], None]
"""Trains the network of a job and writes it with `Job.finish`."""


@dataclass(frozen=True)
class Recipe:
    """How sub-networks are trained; recipe, partition and data together fix the weights.

    Attributes:
        loss, init, optimizer, active_classes, head, scheduler: Hydra nodes with `_target_`.
        trainer: keys of `trainer`, see `experiments.command_line.trainer_arguments`.
        seed: fixes initial weights and batch order.
        callbacks: Hydra nodes by name.
    """

    loss: dict[str, Any]
    init: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    active_classes: dict[str, Any] = field(default_factory=lambda: {"_target_": EVERY_CLASS})
    head: dict[str, Any] = field(default_factory=lambda: {"_target_": LINEAR_HEAD, "_partial_": True})
    scheduler: dict[str, Any] = field(default_factory=lambda: {"_target_": CONSTANT, "_partial_": True})
    callbacks: dict[str, Any] = field(default_factory=dict)

    # They change where or how fast a sub-network is trained, but not its weights.
    _not_in_key = (
        "accelerator", "threads", "max_logits_mb", "strategy", "devices", "checkpoint_every_n_epochs", "steps_per_call",
        "enable_progress_bar", "enable_model_summary", "log_every_n_steps", "default_root_dir", "profiler",
    )  # fmt: skip

    def key(self, data: str, partition: str) -> str:
        """A hash of recipe, data fingerprint and partition hash: equal keys mean equal weights."""
        return self._hash(data, partition, self._not_in_key)

    def lineage(self, data: str, partition: str) -> str:
        """As `key`, but the same for any number of epochs where nothing depends on it (`grows`)."""
        return self._hash(data, partition, (*self._not_in_key, "max_epochs") if self.grows else self._not_in_key)

    @property
    def grows(self) -> bool:
        """Whether more epochs can follow a finished fit: a constant learning rate, and no callback that ends it."""
        return self.scheduler["_target_"] == CONSTANT and not self.callbacks

    def _hash(self, data: str, partition: str, left_out: tuple[str, ...]) -> str:
        trainer = {name: value for name, value in self.trainer.items() if name not in left_out}
        content = json.dumps({**asdict(self), "trainer": trainer, "data": data, "partition": partition}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One network to train. It has only plain values: a launcher sends it to another process as JSON.

    Attributes:
        run: name of the run, which groups its networks on a dashboard.
        run_folder: absolute path.
        data: folder of the EmbeddingSet.
        split: arguments of `datamodules.splits.split_identities`.
        partition: folder of the Partition.
        key, lineage: see `Recipe`; the default lineage is the key.
        title: for people, such as "omniglot N=1623 kmeans m=2 seed 0 cluster 1".
        tracking: Hydra node of the tracking.
        facts: labels for the dashboard: data set, N, m, partitioner.
        entry: dotted name of a class of `Training`s; another process makes one instance for all its jobs.
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
    entry: str = "experiments.training.train.WorkerTraining"
    lineage: str = ""

    def __post_init__(self):
        object.__setattr__(self, "lineage", self.lineage or self.key)

    @property
    def stem(self) -> Path:
        """Path without suffix of the job's files: `.safetensors` (weights) and `.json` (record)."""
        return Path(self.run_folder) / "subnetworks" / self.key / f"{self.cluster:05d}"

    @cached_property
    def identifier(self) -> str:
        """The same text for the same sub-network of the same run, on every machine and after a resume."""
        return hashlib.sha256(f"{self.run_folder}/{self.key}/{self.cluster}".encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        content = json.loads(text)
        return cls(**{**content, "recipe": Recipe(**content["recipe"])})

    def finish(self, weights: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
        """Writes `<stem>.safetensors`, then `<stem>.json`, which makes the job finished; returns the whole record."""
        json.dumps(record, allow_nan=False)  # refused before anything is written
        weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        make_folder(self.stem.parent)
        weights_file = self.stem.with_suffix(".safetensors")
        with atomic_file(weights_file) as temporary:
            safetensors.torch.save_file(weights, temporary)
        record = {**record, "sha256": sha256(weights_file)}
        write_sealed(self.stem.with_suffix(".json"), record)
        self.tidy()
        return record

    def tidy(self) -> None:
        """Removes checkpoints of a finished job; the last one stays if more epochs can follow."""
        files = sorted(epoch_files(self.stem).items())
        for _, file in files[:-1] if self.lineage != self.key else files:
            file.unlink(missing_ok=True)

    def record(self) -> dict[str, Any] | None:
        """The record of a finished job; None if it is not finished or its files are damaged."""
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


class TrainingByEntry:
    """Trains each job with the class that its `entry` names, which opens the data of the job."""

    def __init__(self):
        self._made: dict[str, Training] = {}

    def __call__(self, job: Job, report: EpochReport | None = None) -> None:
        if job.entry not in self._made:
            self._made[job.entry] = get_class(job.entry)()
        self._made[job.entry](job, report)


def failure_line(error: Exception) -> str:
    """Why a job failed: type and text of the error on one line.

    Raises:
        DiskError: the disk is the cause, so that the next job would fail too.
    """
    if (disk := disk_error(error)) is not None:
        raise disk from None  # it may be the error itself
    return " ".join(f"{type(error).__name__}: {error}".split())
