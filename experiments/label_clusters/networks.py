# SPDX-License-Identifier: MIT
"""The networks of a method: from their specification to jobs, to a worker that trains them, to probabilities.

If jobs go to other processes, their rows are in the `data` folder of each. The process that coordinates writes them
before the first job and removes them after the last.

Axes: N rows, K inputs, L labels of the network.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from callbacks.keep_best import KeepBest
from datamodules.extractors.base import seeded
from datamodules.files import atomic_file, make_folder, open_npy
from datamodules.label_cluster_datamodule import LabelClusterDataModule
from datamodules.multilabel import split_rows
from experiments.label_clusters.experiment import LabelExperiment
from experiments.runs.job_states import JobStates
from experiments.training.fit import fit
from experiments.training.job import EpochReport, Job, Recipe
from experiments.training.progress import Watchers
from lightning_modules.baselines.multilabel_separate import SeparatePerceptrons, SeparateTraining
from lightning_modules.multilabel import LabelNetwork, Perceptron, probabilities

ENTRY = "experiments.label_clusters.networks.LabelTraining"  # how a worker finds it


@dataclass(frozen=True)
class NetworkSpec:
    """A network that a method needs."""

    labels_NL: np.ndarray  # (N, L) bool targets of all rows
    number: int  # its place among the networks of its method
    title: str
    drop_rows: bool  # leave out rows without any of its labels, in training and validation
    # Numbers of the labels if each gets a network of its own, all trained at once; None makes one network.
    alone: tuple[int, ...] | None = None
    stream: int | None = None  # seeds the order of the batches; None takes the number


class NetworksFailed(RuntimeError):
    """Networks of a method could not be trained; the others are on disk.

    `failed` holds title and reason of each, by `Job.identifier`.
    """

    def __init__(self, failed: dict[str, tuple[str, str]]):
        super().__init__("; ".join(f"{title}: {reason}" for title, reason in failed.values()))
        self.failed = failed


def train_networks(
    experiment: LabelExperiment, specs: Sequence[NetworkSpec]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Trains the networks that are not on disk, with the launcher, and applies every network to all rows.

    Returns:
        Per network (N, L) float32 probabilities, and its record: epochs, seconds, parameters.

    Raises:
        NetworksFailed: some could not be trained.
    """
    jobs = [make_job(experiment, spec) for spec in specs]
    states = JobStates(experiment.run, jobs)
    if states.missing:
        labels_of = {job.identifier: spec.labels_NL for job, spec in zip(jobs, specs, strict=True)}

        def train_here(job: Job, report: EpochReport | None) -> None:
            train_label_network(job, experiment.inputs, labels_of[job.identifier], report)

        try:
            if not experiment.launcher.trains_here:  # other processes get the rows as files
                make_folder(jobs[0].data)
                _write(_inputs_file(jobs[0]), experiment.inputs.numpy())
                for job in jobs:
                    _write(_labels_file(job), labels_of[job.identifier])
            experiment.launcher.run(states.missing, Watchers(states, experiment.progress), train_here)
        finally:
            shutil.rmtree(experiment.run.path / "rows", ignore_errors=True)
        if states.failed:
            raise NetworksFailed(states.failed)
    answers = []
    for job, spec in zip(jobs, specs, strict=True):
        network = build(job, experiment.inputs.shape[1], spec.labels_NL.shape[1])
        network.load_state_dict(safetensors.torch.load_file(job.stem.with_suffix(".safetensors")))
        answers.append((probabilities(network, experiment.inputs).numpy(), job.record()))
    return answers


def make_job(experiment: LabelExperiment, spec: NetworkSpec) -> Job:
    """The job of a network, as plain values."""
    shape = ("hidden", "hidden_layers", "dropout", "log_counts", "patience", "batch_size", "learning_rate")
    network, partition = {key: getattr(experiment.settings, key) for key in shape}, experiment.feature_clusters
    stream = spec.number if spec.stream is None else spec.stream
    loss: dict[str, Any] = {"kind": "perceptron", "drop_rows": spec.drop_rows, "stream": stream}
    if spec.alone is not None:
        loss |= {"kind": "alone", "labels": list(spec.alone)}
    init = {**network, "features": partition.hash() if partition else None}
    trainer = {"max_epochs": experiment.settings.epochs, "devices": 1, **experiment.trainer}
    recipe = Recipe(loss=loss, init=init, optimizer={}, trainer=trainer, seed=experiment.seed)
    run, content = experiment.run.path, experiment.content()
    rows = hashlib.sha256(f"{content} {recipe.init}".encode()).hexdigest()[:12]  # a worker keeps the inputs it has read
    targets = hashlib.sha256(np.packbits(spec.labels_NL).tobytes()).hexdigest()[:16]
    return Job(
        run=run.name, run_folder=str(run), data=str(run / "rows" / rows), split=content["split"], partition="",
        cluster=spec.number, recipe=recipe,
        key=f"{experiment.data.name}-{recipe.key(str(content), f'{targets}{spec.number}')}",
        title=f"{experiment.title} {spec.title}", tracking=experiment.tracking,
        facts={"dataset": experiment.data.name, "network": spec.title}, entry=ENTRY,
    )  # fmt: skip


class LabelTraining:
    """Trains the networks of jobs; the inputs of the last one stay open, as the next one usually has the same."""

    def __init__(self):
        self._inputs: dict[Path, Tensor] = {}

    def __call__(self, job: Job, report: EpochReport | None = None) -> None:
        if (file := _inputs_file(job)) not in self._inputs:
            self._inputs = {file: torch.from_numpy(np.array(open_npy(file, ("float32",), 2)))}
        train_label_network(job, self._inputs[file], np.array(open_npy(_labels_file(job), ("bool",), 2)), report)


def train_label_network(job: Job, inputs_NK: Tensor, labels_NL: np.ndarray, report: EpochReport | None = None) -> None:
    """Trains the network of a job and leaves it on disk with `Job.finish`.

    Weights and dropout depend on (seed, number), the batches on (seed, stream).

    Raises:
        InputError: its rows cannot be read, or all of them are dropped.
    """
    seed, loss, init = job.recipe.seed, job.recipe.loss, job.recipe.init
    split = split_rows(len(inputs_NK), job.split["validation"], job.split["test"], seed)
    with seeded(_network_seed(seed, job.cluster)):
        network = build(job, inputs_NK.shape[1], labels_NL.shape[1])
        batch_size, rate, patience = (init[key] for key in ("batch_size", "learning_rate", "patience"))
        data = LabelClusterDataModule(inputs_NK, labels_NL, split, loss["drop_rows"], batch_size, seed, loss["stream"])
        module: LabelNetwork
        best: list[KeepBest] = []
        if isinstance(network, SeparatePerceptrons):
            module = SeparateTraining(network, rate, patience)
        else:
            module, best = LabelNetwork(network, rate), [KeepBest(patience=patience)] if patience else []
        fitted = fit(job, module, data, report, best, resume=False)
    state, epochs = network.state_dict(), float(len(fitted.history))
    if isinstance(module, SeparateTraining):
        epochs = float(module.epochs_L.double().mean())
    parameters = sum(value.numel() for value in state.values())
    record = {"title": job.title, "rows": len(data.train[0]), "parameters": parameters, "epochs": epochs}
    if best:
        record["best_epoch"] = best[0].best_epoch + 1
    job.finish(state, {**record, "seconds": fitted.seconds, "history": fitted.history})


def build(job: Job, inputs: int, labels: int) -> nn.Module:
    """The network of a job with its initial weights."""
    shape = [job.recipe.init[key] for key in ("hidden", "hidden_layers", "dropout")]
    if job.recipe.loss["kind"] == "perceptron":
        return Perceptron(inputs, labels, *shape)
    singles = []
    for label in job.recipe.loss["labels"]:
        with seeded(_network_seed(job.recipe.seed, label)):
            singles.append(Perceptron(inputs, 1, *shape))
    return SeparatePerceptrons(singles, job.recipe.init["dropout"])


def _network_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number, 7]).generate_state(1, np.uint64)[0] >> 1)


def _inputs_file(job: Job) -> Path:
    return Path(job.data) / "inputs.npy"  # all networks of a method share it


def _labels_file(job: Job) -> Path:
    return Path(job.data) / f"{job.key}-{job.cluster:05d}.npy"


def _write(file: Path, array: np.ndarray) -> None:
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
