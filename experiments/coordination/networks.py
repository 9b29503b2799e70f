# SPDX-License-Identifier: MIT
"""From a job to its data, its loss and the module that is trained."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hydra.utils import instantiate

from datamodules.class_means import class_means
from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extractors.base import seeded
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Splits, split_identities
from experiments.coordination.job import Job
from experiments.coordination.steps import batch_size
from experiments.training.fit import environment, sharded
from lightning_modules.active_classes import ActiveClasses, EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.heads.base import Head
from lightning_modules.initialisers import starting_rows
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.sharded_head import ShardedHead, ShardedSubNetwork
from lightning_modules.subnetwork import SubNetwork


@lru_cache(maxsize=2)
def enrolled_data(data: str, split: tuple[tuple[str, Any], ...]) -> tuple[EmbeddingSet, Splits, np.ndarray]:
    """Set, splits and (K, D) class means of the training samples of a cell; kept for the next job of the same worker.

    Args:
        split: arguments of `split_identities`, as pairs, so that they can be hashed.
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


def network(job: Job, enrolled: Enrolled) -> tuple[SubNetwork, ClusterDataModule]:
    """The module that trains a sub-network, and its batches; both depend on data, recipe, seed and cluster alone.

    The job's data, split and partition are not looked at.

    Raises:
        InputError: a loss that the data is not fit for, or a head that the recipe cannot train.
    """
    recipe, settings, embedding_set = job.recipe, job.recipe.trainer, enrolled.embedding_set
    data = ClusterDataModule.of_cluster(
        embedding_set, enrolled.splits, enrolled.members_C, seed=recipe.seed, stream=job.cluster
    )
    data.batch_size = batch_size(settings["batch_size"], len(data.train_split))
    data.shared = not sharded(settings)
    samples = TrainingSamples(embedding_set.embeddings, data.train_split)
    loss = instantiate(recipe.loss)
    if loss.needs_raw_embeddings and embedding_set.meta.get("normalised"):
        raise InputError(
            f"{type(loss).__name__} on normalised embeddings", "embeddings with their length", "choose another loss"
        )
    loss = loss.fit(samples)
    seed = _seed(recipe.seed, job.cluster)
    means_CD = torch.from_numpy(enrolled.means_KD[enrolled.members_C])
    init = instantiate(recipe.init).fit(samples)
    rows_CD = starting_rows(init, means_CD, torch.Generator().manual_seed(seed), loss.rows_per_class)
    how = loss, instantiate(recipe.optimizer), instantiate(recipe.scheduler)
    active, options = instantiate(recipe.active_classes), head_options(job, loss)
    check_head(recipe.head, active, settings, loss)
    if sharded(settings):
        place = environment().global_rank(), environment().world_size()
        return ShardedSubNetwork(ShardedHead(rows_CD, active, seed, *place, **options), *how), data
    if not isinstance(active, EveryClass):
        return ActiveSubNetwork(ActiveHead(rows_CD, active, seed, **options), *how), data
    with seeded(seed):  # of what a head draws for itself
        return SubNetwork(instantiate(recipe.head)(rows_CD, **options), *how), data


def trained_head(job: Job) -> Head:
    """The head of a finished job, for inference."""
    record = job.record()
    assert record is not None, job.stem
    loss = instantiate(job.recipe.loss)
    state = safetensors.torch.load_file(job.stem.with_suffix(".safetensors"))
    rows_CD = torch.zeros(record["classes"] * loss.rows_per_class, record["dim"])
    head = instantiate(job.recipe.head)(rows_CD, **head_options(job, loss))
    head.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("head.")}, assign=True)
    return head.requires_grad_(False)


def head_description(job: Job) -> dict[str, Any]:
    """Class and arguments of a job's head, as JSON values."""
    arguments = {name: value for name, value in job.recipe.head.items() if not name.startswith("_")}
    return {
        "class": job.recipe.head["_target_"],
        "arguments": {**arguments, **head_options(job, instantiate(job.recipe.loss))},
    }


def _seed(seed: int, cluster: int) -> int:
    return int(np.random.SeedSequence([seed, cluster, 4]).generate_state(1, np.uint64)[0] >> 1)


def check_head(head: dict[str, Any], active: ActiveClasses, settings: dict[str, Any], loss: ClassificationLoss) -> None:
    """Refuses what cannot be trained together.

    Raises:
        InputError: see the message.
    """
    confined, spread = not isinstance(active, EveryClass), sharded(settings)
    what = " and ".join(
        [f"active_classes={type(active).__name__}"] * confined + ["trainer.strategy=model_parallel"] * spread
    )
    if (confined or spread) and not head["_target_"].endswith(".LinearHead"):
        raise InputError(f"head {head['_target_']} with {what}", "head=linear", "use head=linear")
    for key, harmless in (("gradient_clip_val", (None,)), ("accumulate_grad_batches", (None, 1))):
        if (confined or spread) and settings.get(key) not in harmless:
            raise InputError(f"trainer.{key} with {what}", "one step on all gradients", f"leave trainer.{key} out")
    if confined and not spread and (loss.needs_lengths or settings.get("devices", 1) > 1):
        raise InputError(
            f"{what} with {type(loss).__name__} on {settings.get('devices', 1)} devices",
            "a loss that does not look at lengths, and one device or model_parallel",
            "choose active_classes=all, another loss, or trainer.strategy=model_parallel",
        )
    if (precision := settings.get("precision")) not in (None, "32", 32, "32-true"):
        raise InputError(
            f"trainer.precision = {precision}", "32-true: angles need float32",
            "trainer.matmul=medium, which multiplies bfloat16 operands and sums in float32",
        )  # fmt: skip


def head_options(job: Job, loss: ClassificationLoss) -> dict:
    """Arguments of a head beside its rows."""
    settings = job.recipe.trainer
    return dict(
        unit_rows=loss.unit_rows, precision=settings["matmul"], max_logits_bytes=settings["max_logits_mb"] << 20,
        rows_per_class=loss.rows_per_class, compiled=settings["compile"],
    )  # fmt: skip
