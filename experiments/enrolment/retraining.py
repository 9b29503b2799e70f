# SPDX-License-Identifier: MIT
"""Training the sub-networks anew whose people changed, as they were trained.

Axes: K identities, C classes of one sub-network, D embedding dimension.
"""

import logging
import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.splits import Split, Splits
from experiments.coordination.command_line import CONFIGS
from experiments.coordination.coordinator import fitted
from experiments.coordination.job import Job, Recipe
from experiments.coordination.networks import Enrolled, trained_head
from experiments.coordination.progress import Progress
from experiments.coordination.scenarios import RECIPE
from experiments.coordination.training import train_on
from experiments.enrolment.newcomers import Newcomers
from experiments.enrolment.original import Original
from experiments.training.arguments import check_trainer, defaults
from lightning_modules.enrolment import with_head
from lightning_modules.heads.base import Head
from lightning_modules.identifier import Identifier

logger = logging.getLogger(__name__)
CURE_FIT = "put the data back, or train again with experiments.train"
CURE = "leave out retrain=true, or train again with experiments.train"


def check_retrainable(identifier: Identifier, original: Original) -> Recipe:
    """The recipe of an identifier's sub-networks.

    Raises:
        InputError: no heads, no recipe, a recipe with classes that are none of `experiments/configs`, or no data.
    """
    if identifier.heads is None:
        got = "retrain=true for an identifier without sub-networks"
        raise InputError(got, "one with heads", "leave out retrain=true")
    noted = identifier.provenance.get("training")
    if not isinstance(noted, dict):
        raise InputError("an identifier that does not say how it was trained", "one that does", CURE)
    if original.missing:
        raise InputError(original.missing, "the data of the training", CURE)
    try:
        recipe = Recipe(**noted)
    except TypeError:
        raise InputError(f"a recipe of training with {sorted(noted)}", "the fields of one", CURE) from None
    for group in RECIPE:
        _check_node(group, getattr(recipe, group))
    for node in recipe.callbacks.values():
        _check_node("callbacks", node)
    check_trainer(recipe.trainer)
    # Where it runs is this machine's affair.
    here = {"accelerator": "auto", "devices": 1, "strategy": "auto", "threads": None}
    return replace(recipe, trainer={**defaults(), **recipe.trainer, **here})


def retrain_changed(
    before: Identifier, after: Identifier, original: Original, newcomers: Newcomers | None, console: Console
) -> Identifier:
    """Trains the sub-network of every cluster whose people are not those of a cluster before.

    Args:
        newcomers: the last people of `after`, with their samples.

    Returns:
        `after` with other heads.
    """
    recipe = check_retrainable(before, original)
    same = {_people(before, cluster) for cluster in range(before.partition.n_clusters)}
    changed = [c for c in range(after.partition.n_clusters) if _people(after, c) not in same]
    with tempfile.TemporaryDirectory() as folder, Progress(console, len(changed), recipe.trainer["max_epochs"]) as bar:
        for cluster in changed:
            title = f"cluster {cluster} with {after.partition.sizes()[cluster]} people"
            bar.job_starts(title)
            head = retrain(after, cluster, recipe, original, newcomers, folder, partial(bar.epoch, title))
            after = with_head(after, cluster, head)
            bar.job_ends(title)
            bar.say(f"trained anew: {title}")
    return after


def retrain(
    identifier: Identifier, cluster: int, recipe: Recipe, original: Original, newcomers: Newcomers | None,
    folder: str, report: Any = None,
) -> Head:  # fmt: skip
    """Trains one sub-network; people of whom no samples are at hand (added earlier) on their class mean alone.

    Args:
        newcomers: samples of those who were not.
    """
    members_C = identifier.partition.members(cluster)
    embedding_set, splits = _samples(identifier, members_C, original, newcomers)
    job = Job(
        run="enrol", run_folder=folder, data="", split={}, partition="", cluster=cluster, recipe=recipe, key="enrol",
        title=f"cluster {cluster}", tracking={"_target_": "experiments.coordination.tracking.NoTracking"}, facts={},
    )  # fmt: skip
    train_on(job, Enrolled(embedding_set, splits, identifier.class_means_KD.cpu().numpy(), members_C), report)
    return trained_head(job)


def fit_again(identifier: Identifier, original: Original, newcomers: Newcomers | None) -> Identifier:
    """Fits router and decision to the people as they are now.

    Args:
        newcomers: the last people of `identifier`, with their samples.

    Raises:
        InputError: the data of the training are not to be had.
    """
    if original.missing:
        raise InputError(original.missing, "the data of the training, to fit router and decision again", CURE_FIT)
    everybody = np.arange(len(identifier.identities), dtype=np.int32)
    embedding_set, splits = _samples(identifier, everybody, original, newcomers)
    return fitted(identifier, embedding_set, splits, identifier.provenance["split"].get("seed", 0))


def _samples(
    identifier: Identifier, members_C: np.ndarray, original: Original, newcomers: Newcomers | None
) -> tuple[EmbeddingSet, Splits]:
    # All samples of the cluster in memory, in the order in which experiments.train would meet them.
    added = frozenset(newcomers.names) if newcomers else frozenset()
    first = len(identifier.identities) - len(added)
    blocks, roles, start = [], {}, 0
    for role in ("train", "val"):
        old = original.of(getattr(original.splits, role), identifier, added)
        parts = [(original.embedding_set.embeddings, old)]
        if newcomers:
            new = getattr(newcomers, role)
            parts.append((newcomers.embeddings_ND, Split(new.rows, new.labels + first)))
        parts = [(rows_ND, _within(split, members_C)) for rows_ND, split in parts]
        if role == "train":
            there = np.concatenate([split.labels for _, split in parts])
            without = np.setdiff1d(members_C, there).astype(np.int32)
            if len(without):
                logger.warning("%d people without pictures at hand train on their class mean alone", len(without))
                parts.append((identifier.class_means_KD.cpu().numpy(), Split(without.astype(np.int64), without)))
        labels = np.concatenate([split.labels for _, split in parts])
        blocks += [np.asarray(rows_ND[split.rows], np.float32) for rows_ND, split in parts]
        order = np.argsort(labels, kind="stable")
        roles[role] = Split(start + order.astype(np.int64), labels[order])
        start += len(labels)
    meta = {"normalised": original.embedding_set.meta.get("normalised")}
    everything = EmbeddingSet(np.concatenate(blocks), np.zeros(start, np.int32), identifier.identities, meta=meta)
    nothing = Split(np.zeros(0, np.int64), np.zeros(0, np.int32))
    enrolled = np.arange(len(identifier.identities), dtype=np.int32)
    return everything, Splits(roles["train"], roles["val"], nothing, enrolled)


def _within(split: Split, members_C: np.ndarray) -> Split:
    inside = np.isin(split.labels, members_C)
    return Split(split.rows[inside], split.labels[inside])


def _people(identifier: Identifier, cluster: int) -> frozenset[str]:
    return frozenset(identifier.identities[index] for index in identifier.partition.members(cluster))


def _check_node(group: str, node: Any) -> None:
    # The recipe comes from a file that anybody may have written: it must not choose what is called.
    known = [OmegaConf.to_container(OmegaConf.load(path)) for path in sorted((CONFIGS / group).glob("*.yaml"))]
    like = [each for each in known if isinstance(node, dict) and each.get("_target_") == node.get("_target_")]
    if not like or not set(node) <= set().union(*like) or any(isinstance(value, dict) for value in node.values()):
        raise InputError(f"a recipe with {group} {node!r}", f"a choice of configs/{group} and its keys", CURE)
