# SPDX-License-Identifier: MIT
"""From the networks that a method wants to what they say: jobs, the launcher, the ledger of the run, predictions.

As in the main coordinator, a finished network is never trained twice, and the launcher says where networks are trained.

Axes: N rows, L labels of a network.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from datamodules.files import atomic_file, make_folder
from experiments.coordination.job import Job, Recipe
from experiments.coordination.ledger import Ledger
from experiments.label_clusters.networks import ENTRY, build, inputs_file, labels_file
from experiments.label_clusters.task import Task
from lightning_modules.multilabel import probabilities


@dataclass(frozen=True)
class Wanted:
    """A network that a method wants.

    Attributes:
        labels_NL: (N, L) bool, the targets, all rows.
        number: of the network among those of its method.
        drop_rows: leave out rows without a label of it, in training and validation.
        alone: numbers of the labels, where each gets a network of its own and they are only trained at once; None
            makes one network of all labels.
        stream: of the order of the batches; None takes the number.
    """

    labels_NL: np.ndarray
    number: int
    title: str
    drop_rows: bool
    alone: tuple[int, ...] | None = None
    stream: int | None = None


class NetworksFailed(RuntimeError):
    """Networks of a method could not be trained; the others are on disk.

    `failed` holds title and reason of each, by `Job.identifier`.
    """

    def __init__(self, failed: dict[str, tuple[str, str]]):
        super().__init__("; ".join(f"{title}: {reason}" for title, reason in failed.values()))
        self.failed = failed


def train_networks(task: Task, wanted: Sequence[Wanted]) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Trains what is not trained yet, where the launcher says, and asks every network for all rows.

    Returns:
        Per network (N, L) float32 probabilities, and its record: epochs, seconds, parameters.

    Raises:
        NetworksFailed: some could not be trained.
    """
    jobs = [make_job(task, each) for each in wanted]
    ledger = Ledger(task.run, jobs)
    if ledger.missing:
        make_folder(jobs[0].data)
        try:
            _write(inputs_file(jobs[0]), task.inputs.numpy())
            for job, each in zip(jobs, wanted, strict=True):
                _write(labels_file(job), each.labels_NL)
            reasons = task.launcher.run(ledger.missing, ledger.watching(task.progress))
        finally:
            shutil.rmtree(task.run.path / "rows", ignore_errors=True)
        ledger.close(reasons)
        if reasons:
            titles = {job.identifier: job.title for job in jobs}
            raise NetworksFailed({key: (titles[key], reason) for key, reason in reasons.items()})
    return [_answers(task, job, each) for job, each in zip(jobs, wanted, strict=True)]


def make_job(task: Task, wanted: Wanted) -> Job:
    """What the weights of a network depend on, as plain values."""
    shape = ("hidden", "hidden_layers", "dropout", "log_counts", "patience", "batch_size", "learning_rate")
    network, partition = {key: getattr(task.settings, key) for key in shape}, task.feature_clusters
    stream = wanted.number if wanted.stream is None else wanted.stream
    loss: dict[str, Any] = {"kind": "perceptron", "drop_rows": wanted.drop_rows, "stream": stream}
    if wanted.alone is not None:
        loss |= {"kind": "alone", "labels": list(wanted.alone)}
    recipe = Recipe(
        loss=loss,
        init={**network, "features": partition.hash() if partition else None},
        optimizer={},
        trainer={"max_epochs": task.settings.epochs, "devices": 1, **task.trainer},
        seed=task.seed,
    )
    content = task.content()
    rows = hashlib.sha256(f"{content} {recipe.init}".encode()).hexdigest()[:12]  # a worker keeps what it has read
    targets = hashlib.sha256(np.packbits(wanted.labels_NL).tobytes()).hexdigest()[:16]
    return Job(
        run=task.run.path.name, run_folder=str(task.run.path), data=str(task.run.path / "rows" / rows),
        split=content["split"], partition="", cluster=wanted.number, recipe=recipe,
        key=f"{task.data.name}-{recipe.key(str(content), f'{targets}{wanted.number}')}",
        title=f"{task.title} {wanted.title}", tracking=task.tracking,
        facts={"dataset": task.data.name, "network": wanted.title}, entry=ENTRY,
    )  # fmt: skip


def _write(file: Path, array: np.ndarray) -> None:
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _answers(task: Task, job: Job, wanted: Wanted) -> tuple[np.ndarray, dict[str, Any]]:
    network = build(job, task.inputs.shape[1], wanted.labels_NL.shape[1])
    network.load_state_dict(safetensors.torch.load_file(job.stem.with_suffix(".safetensors")))
    record = job.record()
    assert record is not None, job.stem  # the launcher said that it is finished
    return probabilities(network, task.inputs).numpy(), record
