# SPDX-License-Identifier: MIT
"""One network: from a job to weights and their record on disk. A finished job is never trained again.

Axes: N rows, L labels of the network.
"""

import hashlib
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytorch_lightning as pl
import safetensors.torch
import torch
from hydra.utils import instantiate
from torch import nn

from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.keep_best import KeepBest
from callbacks.reporting import ReportEpoch
from datamodules.extractors.base import seeded
from datamodules.label_cluster_datamodule import LabelClusterDataModule
from experiments.coordination.job import Job, Recipe
from experiments.label_clusters.task import Task
from lightning_modules.baselines.multilabel_separate import SeparatePerceptrons, SeparateTraining
from lightning_modules.multilabel import LabelNetwork, probabilities

Build = Callable[[int, int], nn.Module]  # from numbers of inputs and labels to a network


def make_job(task: Task, labels_NL: np.ndarray, number: int, title: str, kind: str, drop_rows: bool) -> Job:
    """What the weights of a network depend on, as plain values.

    Args:
        task: data, split and settings.
        labels_NL: the targets of the network, all rows.
        number: of the network among those of its method.
        title: for people.
        kind: what the network is made of.
        drop_rows: whether rows without a label of it are left out.
    """
    settings, partition = asdict(task.settings), task.feature_clusters
    network = {key: settings[key] for key in ("hidden", "hidden_layers", "dropout", "log_counts")}
    trainer = {key: settings[key] for key in ("epochs", "patience", "batch_size", "learning_rate")}
    recipe = Recipe(
        loss={"kind": kind, "drop_rows": drop_rows},
        init={**network, "features": partition.hash() if partition else None},
        optimizer={},
        trainer={**trainer, "accelerator": task.trainer.accelerator, "threads": task.trainer.threads},
        seed=task.seed,
    )
    targets = hashlib.sha256(np.packbits(labels_NL).tobytes()).hexdigest()[:16]
    return Job(
        run=task.run.path.name,
        run_folder=str(task.run.path),
        data=task.data.name,
        split=task.content()["split"],
        partition="",
        cluster=number,
        recipe=recipe,
        key=f"{task.data.name}-{recipe.key(str(task.content()), f'{targets}{number}')}",
        title=f"{task.title} {title}",
        tracking=task.tracking,
        facts={"dataset": task.data.name, "network": title},
    )


def train_label_cluster(
    task: Task,
    labels_NL: np.ndarray,
    number: int,
    title: str,
    kind: str,
    build: Build,
    drop_rows: bool,
    stream: int | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains one network, or reads it where it is finished, and asks it for all rows.

    Leaves `<stem>.safetensors` (the weights) and, after it, `<stem>.json`, which makes the job finished. Initial
    weights and dropout depend on (seed, number) alone, the order of the batches on (seed, stream).

    Args:
        task: data, split, settings and run folder.
        labels_NL: (N, L) bool, the targets of the network.
        number: of the network among those of its method.
        title: for people.
        kind: what `build` makes, for the key of the job.
        build: makes the network.
        drop_rows: leave out rows without a label of it, in training and validation.
        stream: of the order of the batches; None takes the number.

    Returns:
        (N, L) float32 probabilities, and the record: epochs, seconds, parameters.

    Raises:
        InputError: no training row has a label of it, though rows are dropped.
    """
    job = make_job(task, labels_NL, number, title, kind, drop_rows)
    record, weights = job.record() or job.restore(), job.stem.with_suffix(".safetensors")
    if task.trainer.threads:
        torch.set_num_threads(task.trainer.threads)
    with seeded(network_seed(task.seed, number)):
        network = build(task.inputs.shape[1], labels_NL.shape[1])
        if record is None:
            data = LabelClusterDataModule(
                task.inputs,
                labels_NL,
                task.split,
                drop_rows,
                task.settings.batch_size,
                task.seed,
                number if stream is None else stream,
            )
            record = _fit(job, network, data, task)
    network.load_state_dict(safetensors.torch.load_file(weights))
    return probabilities(network, task.inputs).numpy(), record


def network_seed(seed: int, number: int) -> int:
    """The seed of the initial weights of a network, and of its dropout.

    Args:
        seed: of the task.
        number: of the network.
    """
    return int(np.random.SeedSequence([seed, number, 7]).generate_state(1, np.uint64)[0] >> 1)


def _fit(job: Job, network: nn.Module, data: LabelClusterDataModule, task: Task) -> dict[str, Any]:
    started, settings = time.perf_counter(), task.settings
    history, tracking = History(), instantiate(job.tracking)
    module: LabelNetwork
    best: list[KeepBest]
    if isinstance(network, SeparatePerceptrons):
        module, best = SeparateTraining(network, settings.learning_rate, settings.patience), []
    else:
        module = LabelNetwork(network, settings.learning_rate)
        best = [KeepBest(patience=settings.patience)] if settings.patience else []
    tracker = tracking.open(job)
    trainer = pl.Trainer(
        max_epochs=settings.epochs,
        accelerator=task.trainer.accelerator,
        devices=1,
        logger=[history] + ([tracker] if tracker else []),
        callbacks=[
            *best, EpochClock(), StopOnNonFinite(),
            ReportEpoch(lambda done, of, values: task.progress.epoch(job.title, done, of, values)),
        ],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10**9,  # values are logged once per epoch
    )  # fmt: skip
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
    record = {
        "title": job.title,
        "rows": len(data.train[0]),
        "parameters": sum(value.numel() for value in state.values()),
        "epochs": epochs,
        **({"best_epoch": best[0].best_epoch + 1} if best else {}),
        "seconds": time.perf_counter() - started,
        "history": history.records,
    }
    return job.finish(state, record)
