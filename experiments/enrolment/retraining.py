# SPDX-License-Identifier: MIT
"""Trains the sub-networks again whose people changed, with the recipe of the first training.

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
from datamodules.splits import NOTHING, Split, Splits
from experiments.command_line.choices import CONFIGS
from experiments.command_line.trainer_arguments import check_trainer, defaults
from experiments.comparison.coordinator import fit_identifier
from experiments.comparison.scenarios import RECIPE
from experiments.enrolment.newcomers import Newcomers
from experiments.enrolment.original import Original
from experiments.training.build import trained_head
from experiments.training.cluster_data import ClusterData, SplitData
from experiments.training.job import Job, Recipe
from experiments.training.progress import Progress
from experiments.training.train import train
from lightning_modules.enrolment import with_head
from lightning_modules.heads.base import Head
from lightning_modules.identifier import Identifier

logger = logging.getLogger(__name__)
CURE_FIT = "put the data back, or train again with experiments.train"
CURE = "leave out retrain=true, or train again with experiments.train"


def check_retrainable(identifier: Identifier, original: Original) -> Recipe:
    """The recipe of an identifier's sub-networks.

    Raises:
        InputError: no heads, no recipe, no data, or a recipe with classes that are not in `experiments/configs`.
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
    # This machine decides where the training runs.
    here = {"accelerator": "auto", "devices": 1, "strategy": "auto", "threads": None}
    return replace(recipe, trainer={**defaults(), **recipe.trainer, **here})


def retrain_changed(
    before: Identifier, after: Identifier, original: Original, newcomers: Newcomers | None, console: Console
) -> Identifier:
    """Gives `after` new heads for the clusters with newcomers, or whose set of people no cluster of `before` has."""
    recipe = check_retrainable(before, original)
    same = {_people(before, cluster) for cluster in range(before.partition.n_clusters)}
    added = frozenset(newcomers.names) if newcomers else frozenset()
    people = [_people(after, cluster) for cluster in range(after.partition.n_clusters)]
    changed = [cluster for cluster, names in enumerate(people) if names not in same or names & added]
    with tempfile.TemporaryDirectory() as folder, Progress(console, dict.fromkeys(map(str, changed), 1.0)) as bar:
        for cluster in changed:
            title = f"cluster {cluster} with {after.partition.sizes()[cluster]} people"
            bar.begins(str(cluster), title)
            head = retrain(
                after, cluster, recipe, original, newcomers, folder, partial(_report, bar, str(cluster), title)
            )
            after = with_head(after, cluster, head)
            bar.ends(str(cluster))
            bar.say(f"trained anew: {title}")
    return after


def _report(bar: Progress, name: str, title: str, done: int, of: int, values: dict[str, float]) -> None:
    bar.advances(name, title, done, of, values.get("train/loss", float("nan")))


def retrain(
    identifier: Identifier, cluster: int, recipe: Recipe, original: Original, newcomers: Newcomers | None,
    folder: str, report: Any = None,
) -> Head:  # fmt: skip
    """Trains one sub-network; people without available samples (added earlier) train on their class mean alone."""
    members_C = identifier.partition.members(cluster)
    embedding_set, splits = _samples(identifier, members_C, original, newcomers)
    job = Job(
        run="enrol", run_folder=folder, data="", split={}, partition="", cluster=cluster, recipe=recipe, key="enrol",
        title=f"cluster {cluster}", tracking={"_target_": "experiments.runs.tracking.NoTracking"}, facts={},
    )  # fmt: skip
    whole = SplitData(embedding_set, splits, identifier.class_means_KD.cpu().numpy())
    train(job, ClusterData(whole, members_C), report)
    return trained_head(job)


def fit_again(identifier: Identifier, original: Original, newcomers: Newcomers | None) -> Identifier:
    """Fits the decision again after people changed.

    Refuses missing data of the training.
    """
    if original.missing:
        raise InputError(original.missing, "the data of the training, to fit the decision again", CURE_FIT)
    everybody = np.arange(len(identifier.identities), dtype=np.int32)
    embedding_set, splits = _samples(identifier, everybody, original, newcomers)
    return fit_identifier(identifier, embedding_set, splits, identifier.provenance["split"].get("seed", 0))


def _samples(
    identifier: Identifier, members_C: np.ndarray, original: Original, newcomers: Newcomers | None
) -> tuple[EmbeddingSet, Splits]:
    # All samples of the cluster in memory, in the order of experiments.train.
    added = frozenset(newcomers.names) if newcomers else frozenset()
    blocks, roles, start = [], {}, 0
    for role in ("train", "val"):
        old = original.of(getattr(original.splits, role), identifier, added)
        parts = [(original.embedding_set.embeddings, old)]
        if newcomers:
            parts.append((newcomers.embeddings_ND, newcomers.of(getattr(newcomers, role), identifier)))
        parts = [(rows_ND, _within(split, members_C)) for rows_ND, split in parts]
        labels = np.concatenate([split.labels for _, split in parts])
        without = np.setdiff1d(members_C, labels).astype(np.int32)
        if role == "train" and len(without):
            logger.warning("%d people without available pictures train on their class mean alone", len(without))
            parts.append((identifier.class_means_KD.cpu().numpy(), Split(without.astype(np.int64), without)))
            labels = np.concatenate([labels, without])
        blocks += [np.asarray(rows_ND[split.rows], np.float32) for rows_ND, split in parts]
        order = np.argsort(labels, kind="stable")
        roles[role] = Split(start + order.astype(np.int64), labels[order])
        start += len(labels)
    meta = {"normalised": original.embedding_set.meta.get("normalised")}
    everything = EmbeddingSet(np.concatenate(blocks), np.zeros(start, np.int32), identifier.identities, meta=meta)
    enrolled = np.arange(len(identifier.identities), dtype=np.int32)
    return everything, Splits(roles["train"], roles["val"], NOTHING, enrolled)


def _within(split: Split, members_C: np.ndarray) -> Split:
    inside = np.isin(split.labels, members_C)
    return Split(split.rows[inside], split.labels[inside])


def _people(identifier: Identifier, cluster: int) -> frozenset[str]:
    return frozenset(identifier.identities[index] for index in identifier.partition.members(cluster))


def _check_node(group: str, node: Any) -> None:
    # The recipe comes from a file that anybody may have written: it must not choose which code is called.
    known = [OmegaConf.to_container(OmegaConf.load(path)) for path in sorted((CONFIGS / group).glob("*.yaml"))]
    like = [each for each in known if isinstance(node, dict) and each.get("_target_") == node.get("_target_")]
    if not like or not set(node) <= set().union(*like) or any(isinstance(value, dict) for value in node.values()):
        raise InputError(f"a recipe with {group} {node!r}", f"a choice of configs/{group} and its keys", CURE)
