# SPDX-License-Identifier: MIT
"""What a worker does: train the sub-network of a job and leave its weights and its record on disk."""

import logging
import os
import signal
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

from callbacks.epoch_checkpoint import EpochCheckpoint
from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.reporting import ReportEpoch
from experiments.coordination.job import Job
from experiments.coordination.networks import Enrolled, network, start, strategy
from lightning_modules.heads import Head
from lightning_modules.sharded_head import ShardedHead

log = logging.getLogger(__name__)

EpochReport = Callable[[int, int, dict[str, float]], None]


def train(job: Job, report: EpochReport | None = None) -> None:
    """Trains the sub-network of a job on the data it names; see `train_on`.

    Args:
        job: what to train.
        report: called after each epoch.
    """
    train_on(job, Enrolled.of(job), report)


def train_on(job: Job, enrolled: Enrolled, report: EpochReport | None = None) -> None:
    """Trains one sub-network. Its initial weights and batch order depend on (seed, cluster) alone.

    Leaves `<stem>.safetensors` (rows (C, D) as the head uses them) and, after it, `<stem>.json`, which makes the job
    finished: history per epoch, seconds, parameters, peak memory, hash of the weights.

    Args:
        job: what to train; its data, split and partition are not looked at.
        enrolled: the data.
        report: called after each epoch.
    """
    settings, started = job.recipe.trainer, time.perf_counter()
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    begin = start(job, enrolled)
    # Named, or Lightning would take the variables of a SLURM allocation for those of this fit.
    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()
    subnetwork, data = network(job, begin, environment), begin.data
    del begin  # the starting rows, which the head has taken a copy of
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1)) if settings["devices"] > 1 else 1
    history, tracking = History(), instantiate(job.tracking)
    checkpoint = EpochCheckpoint(job.stem, job.key, history, settings["checkpoint_every_n_epochs"])
    tracker = tracking.open(job) if getattr(rank_zero_only, "rank", 0) == 0 else None
    try:
        trainer = pl.Trainer(
            max_epochs=settings["max_epochs"],
            accelerator=settings["accelerator"],
            devices=settings["devices"] // nodes,
            num_nodes=nodes,
            plugins=[environment],
            strategy=strategy(settings),
            check_val_every_n_epoch=settings["check_val_every_n_epoch"],
            limit_val_batches=1.0 if len(data.val_split) else 0,
            num_sanity_val_steps=0,
            logger=[history] + ([tracker] if tracker else []),
            callbacks=[checkpoint, EpochClock(), StopOnNonFinite()] + ([ReportEpoch(report)] if report else []),
            use_distributed_sampler=False,  # IndexBatches deals to the ranks itself
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10**9,  # values are logged once per epoch
        )
        try:
            trainer.fit(subnetwork, datamodule=data)
        except SystemExit:  # Lightning's way to answer Ctrl-C; it also leaves further ones ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
    finally:
        tracking.close()
    head = subnetwork.head
    rows_CD = head.whole_rows() if isinstance(head, ShardedHead) else head.rows().detach()
    if trainer.is_global_zero:
        keep(job, rows_CD.cpu().contiguous(), head.rows_per_class, history, time.perf_counter() - started)
    # A Trainer and what it trained refer to each other, and Python looks for such circles too seldom: hundreds of fits
    # in one process would hold gigabytes.
    data.release()
    if isinstance(head, Head):
        head.scratch.clear()
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def keep(job: Job, rows_CD: torch.Tensor, rows_per_class: int, history: History, seconds: float) -> None:
    """Leaves the files of a finished job.

    Args:
        job: what was trained.
        rows_CD: (C, D) float32 rows as the head uses them.
        rows_per_class: of `Head`.
        history: values of each epoch.
        seconds: that it took, wall clock, in seconds.
    """
    records = history.records
    record = {
        "title": job.title,
        "cluster": job.cluster,
        "classes": len(rows_CD) // rows_per_class,
        "parameters": rows_CD.numel(),
        "epochs": len(records),
        "seconds": seconds,
        "peak_memory_mb": max((r.get("memory/peak_mb", 0.0) for r in records), default=0.0),
        "history": records,
    }
    job.finish({"rows": rows_CD}, record)
    last = records[-1] if records else {}
    shown = ", ".join(f"{name} {last[name]:.4g}" for name in ("train/loss", "val/accuracy_percent") if name in last)
    log.info("%s: %d classes, %d epochs in %.1f s, %s", job.title, record["classes"], len(records), seconds, shown)
