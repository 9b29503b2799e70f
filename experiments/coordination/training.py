# SPDX-License-Identifier: MIT
"""What a worker does: train the sub-network of a job and leave its weights and its record on disk."""

import logging
import os
import signal
import time
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

from callbacks.epoch_checkpoint import EpochCheckpoint
from callbacks.epoch_clock import EpochClock
from callbacks.finite import StopOnNonFinite
from callbacks.history import History
from callbacks.reporting import ReportEpoch
from datamodules.class_means import class_means
from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.splits import Splits, split_identities
from experiments.coordination.job import Job
from lightning_modules.active_classes import EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.heads import Head, starting_rows
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.sharded_head import ModelParallel, ShardedHead, ShardedSubNetwork
from lightning_modules.subnetwork import SubNetwork

log = logging.getLogger(__name__)

EpochReport = Callable[[int, int, dict[str, float]], None]


@lru_cache(maxsize=2)
def enrolled_data(data: str, split: tuple[tuple[str, object], ...]) -> tuple[EmbeddingSet, Splits, np.ndarray]:
    """Set, splits and class means of a cell; kept for the next job of the same worker.

    Args:
        data: folder of the EmbeddingSet.
        split: arguments of `split_identities`, as pairs, so that they can be hashed.

    Returns:
        The set, the splits, (K, D) class means of the training samples.
    """
    embedding_set = EmbeddingSet.open(data, check_values=False)
    splits = split_identities(embedding_set, **dict(split))
    return embedding_set, splits, class_means(embedding_set.embeddings, splits.train, splits.n_identities)


@lru_cache(maxsize=4)
def _partition(folder: str) -> Partition:
    return Partition.load(folder)


def train(job: Job, report: EpochReport | None = None) -> None:
    """Trains one sub-network. Its initial weights and batch order depend on (seed, cluster) alone.

    Leaves `<stem>.safetensors` (rows (C, D) as the head uses them) and, after it, `<stem>.json`, which makes the job
    finished: history per epoch, seconds, parameters, peak memory, hash of the weights.

    Args:
        job: what to train.
        report: called after each epoch.
    """
    recipe, settings = job.recipe, job.recipe.trainer
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    started = time.perf_counter()
    embedding_set, splits, means_KD = enrolled_data(job.data, tuple(sorted(job.split.items())))
    members_C = _partition(job.partition).members(job.cluster)

    generator = torch.Generator().manual_seed(_seed(recipe.seed, job.cluster))
    data = ClusterDataModule(embedding_set, splits, members_C, settings["batch_size"], recipe.seed, job.cluster)
    loss = instantiate(recipe.loss)
    if loss.needs_raw_embeddings and embedding_set.meta.get("normalised"):
        raise InputError(
            f"{type(loss).__name__} on normalised embeddings", "embeddings with their length", "choose another loss"
        )
    means_CD = torch.from_numpy(means_KD[members_C])
    rows_CD = starting_rows(instantiate(recipe.init), means_CD, generator, loss.rows_per_class)
    # Named, or Lightning would take the variables of a SLURM allocation for those of this fit.
    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()
    network = _network(job, rows_CD, loss, environment)
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1)) if settings["devices"] > 1 else 1
    history, tracking = History(), instantiate(job.tracking)
    checkpoint = EpochCheckpoint(job.stem, job.key, history, settings["checkpoint_every_n_epochs"])
    tracker = tracking.open(job) if rank_zero_only.rank == 0 else None
    try:
        trainer = pl.Trainer(
            max_epochs=settings["max_epochs"],
            accelerator=settings["accelerator"],
            devices=settings["devices"] // nodes,
            num_nodes=nodes,
            plugins=[environment],
            strategy=_strategy(settings),
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
            trainer.fit(network, datamodule=data)
        except SystemExit:  # Lightning's way to answer Ctrl-C; it also leaves further ones ignored
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
    finally:
        tracking.close()
    head = network.head
    rows_CD = head.whole_rows() if isinstance(head, ShardedHead) else head.rows().detach()
    if trainer.is_global_zero:
        _keep(job, rows_CD.cpu().contiguous(), head.rows_per_class, history, time.perf_counter() - started)


def _seed(seed: int, cluster: int) -> int:
    return int(np.random.SeedSequence([seed, cluster, 4]).generate_state(1, np.uint64)[0] >> 1)


def _sharded(settings: dict) -> bool:
    return settings["strategy"] == "model_parallel" and settings["devices"] > 1


def _strategy(settings: dict) -> str | ModelParallel:
    if _sharded(settings):
        return ModelParallel()
    return "auto" if settings["devices"] == 1 else settings["strategy"]


def _network(job: Job, rows_CD: torch.Tensor, loss: ClassificationLoss, environment: ClusterEnvironment) -> SubNetwork:
    recipe, settings = job.recipe, job.recipe.trainer
    options = dict(
        unit_rows=loss.unit_rows, precision=settings["matmul"], max_logits_bytes=settings["max_logits_mb"] << 20,
        rows_per_class=loss.rows_per_class,
    )  # fmt: skip
    active = instantiate(recipe.active_classes)
    how = (loss, partial(_optimizer, recipe.optimizer), settings["schedule"])
    if _sharded(settings):
        place = environment.global_rank(), environment.world_size()
        head = ShardedHead(rows_CD, active, _seed(recipe.seed, job.cluster), *place, **options)
        return ShardedSubNetwork(head, *how)
    if isinstance(active, EveryClass):
        return SubNetwork(Head(rows_CD, **options), *how)
    if loss.needs_lengths or settings["devices"] > 1:
        raise InputError(
            f"{type(active).__name__} with {type(loss).__name__} on {settings['devices']} devices, strategy "
            f"{settings['strategy']}", "a loss that does not look at lengths, and one device or model_parallel",
            "choose active_classes=all, another loss, or trainer.strategy=model_parallel",
        )  # fmt: skip
    return ActiveSubNetwork(ActiveHead(rows_CD, active, _seed(recipe.seed, job.cluster), **options), *how)


def _optimizer(node: dict, parameters) -> torch.optim.Optimizer:
    return instantiate(node)(parameters)


def _keep(job: Job, rows_CD: torch.Tensor, rows_per_class: int, history: History, seconds: float) -> None:
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
    shown = ", ".join(f"{name} {last[name]:.4g}" for name in ("train/loss", "val/accuracy") if name in last)
    log.info("%s: %d classes, %d epochs in %.1f s, %s", job.title, record["classes"], len(records), seconds, shown)
