# SPDX-License-Identifier: MIT
"""What a worker does with a label network: reads its rows, trains it, and leaves its weights and its record.

A launcher sends jobs here by their `entry`. Rows lie in the job's `data` folder, written by the coordinator of the run
before it sends the first job, and removed after the last one.

Axes: N rows, K inputs, L labels of the network.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from callbacks.keep_best import KeepBest
from datamodules.extractors.base import seeded
from datamodules.files import open_npy
from datamodules.label_cluster_datamodule import LabelClusterDataModule
from datamodules.multilabel import split_rows
from experiments.coordination.job import EpochReport, Job
from experiments.training.fit import fit
from lightning_modules.baselines.multilabel_separate import SeparatePerceptrons, SeparateTraining
from lightning_modules.multilabel import LabelNetwork, Perceptron

ENTRY = "experiments.label_clusters.networks.train"


def train(job: Job, report: EpochReport | None = None) -> None:
    """Trains the network of a job. Weights and dropout depend on (seed, number), the batches on (seed, stream).

    Leaves `<stem>.safetensors` (the weights) and, after it, `<stem>.json`, which makes the job finished.

    Raises:
        InputError: its rows cannot be read, or none of them has a label of the network, though rows are dropped.
    """
    recipe = job.recipe
    inputs_NK = _inputs(inputs_file(job))
    labels_NL = np.array(open_npy(labels_file(job), ("bool",), 2))
    split = split_rows(len(inputs_NK), job.split["validation"], job.split["test"], recipe.seed)
    with seeded(network_seed(recipe.seed, job.cluster)):
        network = build(job, inputs_NK.shape[1], labels_NL.shape[1])
        stream = recipe.loss["stream"]
        data = LabelClusterDataModule(
            inputs_NK, labels_NL, split, recipe.loss["drop_rows"], recipe.init["batch_size"], recipe.seed, stream
        )
        _fit(job, network, data, report)


def build(job: Job, inputs: int, labels: int) -> nn.Module:
    """The network of a job with its initial weights."""
    shape = [job.recipe.init[key] for key in ("hidden", "hidden_layers", "dropout")]
    if job.recipe.loss["kind"] == "perceptron":
        return Perceptron(inputs, labels, *shape)
    singles = []
    for label in job.recipe.loss["labels"]:
        with seeded(network_seed(job.recipe.seed, label)):
            singles.append(Perceptron(inputs, 1, *shape))
    return SeparatePerceptrons(singles, job.recipe.init["dropout"])


def network_seed(seed: int, number: int) -> int:
    """The seed of the initial weights of a network, and of its dropout."""
    return int(np.random.SeedSequence([seed, number, 7]).generate_state(1, np.uint64)[0] >> 1)


def inputs_file(job: Job) -> Path:
    """Where the (N, K) float32 inputs of a job lie: all networks of a method have the same."""
    return Path(job.data) / "inputs.npy"


def labels_file(job: Job) -> Path:
    """Where the (N, L) bool targets of a job lie."""
    return Path(job.data) / f"{job.key}-{job.cluster:05d}.npy"


@functools.lru_cache(maxsize=1)
def _inputs(file: Path) -> Tensor:
    return torch.from_numpy(np.array(open_npy(file, ("float32",), 2)))


def _fit(job: Job, network: nn.Module, data: LabelClusterDataModule, report: EpochReport | None) -> None:
    rate, patience = job.recipe.init["learning_rate"], job.recipe.init["patience"]
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
