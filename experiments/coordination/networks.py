# SPDX-License-Identifier: MIT
"""From a job to its data, its loss and the module that is trained."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from pytorch_lightning.plugins.environments import ClusterEnvironment

from datamodules.class_means import class_means
from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Splits, split_identities
from experiments.coordination.job import Job
from experiments.coordination.steps import batch_size
from lightning_modules.active_classes import EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.heads import Head, starting_rows
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.sharded_head import ModelParallel, ShardedHead, ShardedSubNetwork
from lightning_modules.subnetwork import SubNetwork


@lru_cache(maxsize=2)
def enrolled_data(data: str, split: tuple[tuple[str, Any], ...]) -> tuple[EmbeddingSet, Splits, np.ndarray]:
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


@dataclass(frozen=True)
class Enrolled:
    """The data of one sub-network.

    Attributes:
        embedding_set: all samples.
        splits: training and validation samples; identities as labels.
        means_KD: (K, D) float32 unit class means.
        members_C: (C,) identities of the cluster, ascending.
    """

    embedding_set: EmbeddingSet
    splits: Splits
    means_KD: np.ndarray
    members_C: np.ndarray

    @classmethod
    def of(cls, job: Job) -> "Enrolled":
        """What a job names."""
        embedding_set, splits, means_KD = enrolled_data(job.data, tuple(sorted(job.split.items())))
        return cls(embedding_set, splits, means_KD, _partition(job.partition).members(job.cluster))


@dataclass(frozen=True)
class Start:
    """A sub-network before its first step; it depends on data, recipe, seed and cluster alone.

    Attributes:
        data: its batches.
        rows_CD: (C, D) float32 class rows to start from.
        loss: per-sample loss.
    """

    data: ClusterDataModule
    rows_CD: torch.Tensor
    loss: ClassificationLoss


def start(job: Job, enrolled: Enrolled) -> Start:
    """Data, rows and loss of a job.

    Args:
        job: its recipe counts; its data, split and partition are not looked at.
        enrolled: the data.

    Raises:
        InputError: a loss that the data is not fit for.
    """
    recipe, embedding_set = job.recipe, enrolled.embedding_set
    data = ClusterDataModule(embedding_set, enrolled.splits, enrolled.members_C, seed=recipe.seed, stream=job.cluster)
    data.batch_size = batch_size(recipe.trainer["batch_size"], len(data.train_split))
    loss = instantiate(recipe.loss)
    if loss.needs_raw_embeddings and embedding_set.meta.get("normalised"):
        raise InputError(
            f"{type(loss).__name__} on normalised embeddings", "embeddings with their length", "choose another loss"
        )
    generator = torch.Generator().manual_seed(_seed(recipe.seed, job.cluster))
    means_CD = torch.from_numpy(enrolled.means_KD[enrolled.members_C])
    init = instantiate(recipe.init).fit(TrainingSamples(embedding_set.embeddings, data.train_split))
    return Start(data, starting_rows(init, means_CD, generator, loss.rows_per_class), loss)


def _seed(seed: int, cluster: int) -> int:
    return int(np.random.SeedSequence([seed, cluster, 4]).generate_state(1, np.uint64)[0] >> 1)


def _sharded(settings: dict) -> bool:
    return settings["strategy"] == "model_parallel" and settings["devices"] > 1


def strategy(settings: dict) -> str | ModelParallel:
    """Lightning's strategy for the devices of one sub-network.

    Args:
        settings: values of `schema.TrainerConfig`.
    """
    if _sharded(settings):
        return ModelParallel()
    return "auto" if settings["devices"] == 1 else settings["strategy"]


def network(job: Job, start: Start, environment: ClusterEnvironment) -> SubNetwork:
    """The module that trains a sub-network: its head whole, sampled, or sharded over processes.

    Args:
        job: with its recipe.
        start: of the sub-network.
        environment: which process of how many this is.

    Raises:
        InputError: a loss or a number of devices that the recipe's head cannot have.
    """
    recipe, settings, loss, rows_CD = job.recipe, job.recipe.trainer, start.loss, start.rows_CD
    options = head_options(job, loss)
    active = instantiate(recipe.active_classes)
    how = (loss, partial(optimizer, recipe.optimizer), settings["schedule"])
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


def optimizer(node: dict, parameters) -> torch.optim.Optimizer:
    """The optimiser that a Hydra node describes.

    Args:
        node: with `_target_` and `_partial_`.
        parameters: what it moves, or groups of it.
    """
    return instantiate(node)(parameters)


def head_options(job: Job, loss: ClassificationLoss) -> dict:
    """Arguments of a head beside its rows.

    Args:
        job: with its recipe.
        loss: of the sub-network.
    """
    settings = job.recipe.trainer
    return dict(
        unit_rows=loss.unit_rows, precision=settings["matmul"], max_logits_bytes=settings["max_logits_mb"] << 20,
        rows_per_class=loss.rows_per_class, compiled=settings["compile"],
    )  # fmt: skip
