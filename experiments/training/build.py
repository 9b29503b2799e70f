# SPDX-License-Identifier: MIT
"""Makes the module that is trained of a job and its data."""

from typing import Any

import numpy as np
import safetensors.torch
import torch
from hydra.utils import instantiate

from datamodules.cluster_datamodule import ClusterDataModule, batch_size
from datamodules.errors import InputError
from datamodules.extractors.base import seeded
from datamodules.partitioners.samples import TrainingSamples
from experiments.training.cluster_data import ClusterData
from experiments.training.fit import environment, sharded
from experiments.training.job import Job
from lightning_modules.active_classes import ActiveClasses, EveryClass
from lightning_modules.active_head import ActiveHead, ActiveSubNetwork
from lightning_modules.heads.base import Head
from lightning_modules.initialisers import starting_rows
from lightning_modules.losses.base import ClassificationLoss
from lightning_modules.sharded_head import ShardedHead, ShardedSubNetwork
from lightning_modules.subnetwork import SubNetwork


def build(job: Job, of_cluster: ClusterData) -> tuple[SubNetwork, ClusterDataModule]:
    """The module of a sub-network and its batches; both depend only on data, recipe, seed and cluster.

    Raises:
        InputError: the loss cannot use the data, or the recipe cannot train the head.
    """
    recipe, settings, whole, members_C = job.recipe, job.recipe.trainer, of_cluster.whole, of_cluster.members_C
    embedding_set = whole.embedding_set
    data = ClusterDataModule.of_cluster(embedding_set, whole.splits, members_C, seed=recipe.seed, stream=job.cluster)
    data.batch_size = batch_size(settings["batch_size"], len(data.train_split))
    data.shared = not sharded(settings)
    samples = TrainingSamples(embedding_set.embeddings, data.train_split)
    loss = instantiate(recipe.loss)
    if loss.needs_raw_embeddings and embedding_set.meta.get("normalised"):
        raise InputError(
            f"{type(loss).__name__} on normalised embeddings", "embeddings with their length", "choose another loss"
        )
    loss = loss.fit(samples)
    seed = int(np.random.SeedSequence([recipe.seed, job.cluster, 4]).generate_state(1, np.uint64)[0] >> 1)
    means_CD = torch.from_numpy(whole.class_means_KD[members_C])
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
    with seeded(seed):  # for heads that draw numbers themselves
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


def check_head(head: dict[str, Any], active: ActiveClasses, settings: dict[str, Any], loss: ClassificationLoss) -> None:
    """Refuses combinations that cannot be trained.

    Raises:
        InputError: such a combination.
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
    """Arguments of a head other than its rows."""
    settings = job.recipe.trainer
    return dict(
        unit_rows=loss.unit_rows, precision=settings["matmul"], max_logits_bytes=settings["max_logits_mb"] << 20,
        rows_per_class=loss.rows_per_class,
    )  # fmt: skip
