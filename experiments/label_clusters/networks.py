# SPDX-License-Identifier: MIT
"""What a worker does with a label network: reads its rows, trains it, and leaves its weights and its record.

A launcher sends jobs here by their `entry`. Rows lie in the job's `data` folder, written by the coordinator of the run
before it sends the first job, and removed after the last one.

Axes: N rows, K inputs, L labels of the network.
"""

import functools
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.keep_best import KeepBest
from callbacks.reporting import ReportEpoch
from datamodules.extractors.base import seeded
from datamodules.files import open_npy
from datamodules.label_cluster_datamodule import LabelClusterDataModule
from datamodules.multilabel import split_rows
from experiments.coordination.job import Job
from experiments.coordination.training import EpochReport
from lightning_modules.baselines.multilabel_separate import SeparatePerceptrons, SeparateTraining
from lightning_modules.multilabel import LabelNetwork, Perceptron

ENTRY = "experiments.label_clusters.networks.train"


def train(job: Job, report: EpochReport | None = None) -> None:
    """Trains the network of a job. Weights and dropout depend on (seed, number), the batches on (seed, stream).

    Leaves `<stem>.safetensors` (the weights) and, after it, `<stem>.json`, which makes the job finished.

    Args:
        job: made by `experiments.label_clusters.training.make_job`.
        report: called after each epoch.

    Raises:
        InputError: its rows cannot be read, or none of them has a label of the network, though rows are dropped.
    """
    recipe, settings = job.recipe, job.recipe.trainer
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    inputs_NK = _inputs(inputs_file(job))
    labels_NL = np.array(open_npy(labels_file(job), ("bool",), 2))
    split = split_rows(len(inputs_NK), job.split["validation"], job.split["test"], recipe.seed)
    with seeded(network_seed(recipe.seed, job.cluster)):
        network = build(job, inputs_NK.shape[1], labels_NL.shape[1])
        stream = recipe.loss["stream"]
        data = LabelClusterDataModule(
            inputs_NK, labels_NL, split, recipe.loss["drop_rows"], settings["batch_size"], recipe.seed, stream
        )
        _fit(job, network, data, report)


def build(job: Job, inputs: int, labels: int) -> nn.Module:
    """The network of a job with its initial weights.

    Args:
        job: what to build.
        inputs: K.
        labels: L.
    """
    shape = job.recipe.init
    if job.recipe.loss["kind"] == "perceptron":
        return Perceptron(inputs, labels, shape["hidden"], shape["hidden_layers"], shape["dropout"])
    singles = []
    for label in job.recipe.loss["labels"]:
        with seeded(network_seed(job.recipe.seed, label)):
            singles.append(Perceptron(inputs, 1, shape["hidden"], shape["hidden_layers"], shape["dropout"]))
    return SeparatePerceptrons(singles, shape["dropout"])


def network_seed(seed: int, number: int) -> int:
    """The seed of the initial weights of a network, and of its dropout.

    Args:
        seed: of the task.
        number: of the network.
    """
    return int(np.random.SeedSequence([seed, number, 7]).generate_state(1, np.uint64)[0] >> 1)


def inputs_file(job: Job) -> Path:
    """Where the (N, K) float32 inputs of a job lie: all networks of a method have the same.

    Args:
        job: any of the method.
    """
    return Path(job.data) / "inputs.npy"


def labels_file(job: Job) -> Path:
    """Where the (N, L) bool targets of a job lie.

    Args:
        job: whose targets.
    """
    return Path(job.data) / f"{job.key}-{job.cluster:05d}.npy"


@functools.lru_cache(maxsize=1)
def _inputs(file: Path) -> Tensor:
    return torch.from_numpy(np.array(open_npy(file, ("float32",), 2)))


def _fit(job: Job, network: nn.Module, data: LabelClusterDataModule, report: EpochReport | None) -> None:
    started, settings = time.perf_counter(), job.recipe.trainer
    history, tracking = History(), instantiate(job.tracking)
    module: LabelNetwork
    best: list[KeepBest]
    if isinstance(network, SeparatePerceptrons):
        module, best = SeparateTraining(network, settings["learning_rate"], settings["patience"]), []
    else:
        module = LabelNetwork(network, settings["learning_rate"])
        best = [KeepBest(patience=settings["patience"])] if settings["patience"] else []
    tracker = tracking.open(job)
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        accelerator=settings["accelerator"],
        devices=1,
        logger=[history] + ([tracker] if tracker else []),
        callbacks=[*best, EpochClock(), StopOnNonFinite()] + ([ReportEpoch(report)] if report else []),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,  # values are logged once per epoch
    )
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # Lightning's way to answer Ctrl-C; it also leaves further ones ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    finally:
        tracking.close()
    state, epochs = network.state_dict(), float(len(history.records))
    if isinstance(module, SeparateTraining):
        epochs = float(module.epochs_L.double().mean())
    record: dict[str, Any] = {
        "title": job.title,
        "rows": len(data.train[0]),
        "parameters": sum(value.numel() for value in state.values()),
        "epochs": epochs,
        **({"best_epoch": best[0].best_epoch + 1} if best else {}),
        "seconds": time.perf_counter() - started,
        "history": history.records,
    }
    job.finish(state, record)
