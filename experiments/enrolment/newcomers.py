# SPDX-License-Identifier: MIT
"""The people to be added: from an EmbeddingSet, or from pictures.

Axes: N samples, Q people to be added, D embedding dimension.
"""

import csv
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, nearest
from datamodules.sources.base import Listing
from datamodules.sources.image_folder import ImageFolder
from datamodules.splits import Split, split_identities
from experiments.enrolment.original import relabelled
from experiments.extraction.config import ExtractionConfig, enrolled_extractor, from_recipe
from experiments.extraction.extract import extract
from lightning_modules.identifier import Identifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Newcomers:
    """Q people and their samples."""

    names: tuple[str, ...]
    embeddings_ND: np.ndarray  # (N, D) of all samples
    # Rows of `embeddings_ND`, labels in [0, Q); test samples are in no class mean.
    train: Split
    val: Split
    test: Split

    def class_means(self) -> Tensor:
        """(Q, D) float32 unit means of the training and validation samples."""
        rows = np.concatenate([self.train.rows, self.val.rows])
        labels = np.concatenate([self.train.labels, self.val.labels])
        people = np.arange(len(self.names), dtype=np.int32)
        return torch.from_numpy(class_means(self.embeddings_ND, relabelled(Split(rows, labels), people), len(people)))

    @classmethod
    def of(cls, embedding_set: EmbeddingSet, chosen: list[str] | None, test: bool) -> "Newcomers":
        """The chosen people of a set, or all, split by `split_identities`; without `test` all samples train."""
        names = embedding_set.identities if chosen is None else tuple(chosen)
        place = {name: index for index, name in enumerate(names)}
        new_label = np.array([place.get(name, -1) for name in embedding_set.identities], np.int32)
        nothing = Split(np.zeros(0, np.int64), np.zeros(0, np.int32))
        parts = [Split(np.arange(len(embedding_set)), embedding_set.labels), nothing, nothing]
        if test:
            splits = split_identities(embedding_set)
            parts = [splits.train, splits.val, splits.test]
        return cls(names, embedding_set.embeddings, *(relabelled(part, new_label) for part in parts))


def read_newcomers(cfg: DictConfig, identifier: Identifier) -> Newcomers | None:
    """The people that the configuration adds, or None.

    Raises:
        InputError: no such people, people who are enrolled already (before any picture is read), or embeddings of
            another extractor.
    """
    chosen = as_names(cfg.identities, "identities")
    if cfg.embeddings is not None:
        embedding_set = EmbeddingSet.open(cfg.embeddings)
        check_names(embedding_set.identities, chosen, identifier)
        _check_extractor(embedding_set, identifier)
        return Newcomers.of(embedding_set, chosen, cfg.test)
    if cfg.images is None:
        return None
    recipe = identifier.provenance.get("recipe") or {}
    node = from_recipe(recipe, "source")
    found = ImageFolder(cfg.images).scan().identities
    check_names(found, chosen, identifier)
    source = _ChosenPeople(cfg.images, chosen or found, top_up_to=5 if node is None else node.top_up_to)
    extractor, aligner = enrolled_extractor(cfg, recipe, identifier, source)
    settings = ExtractionConfig(num_workers=cfg.num_workers, max_side=cfg.max_side)
    devices = {"accelerator": "cpu" if str(cfg.device) == "cpu" else "gpu", "devices": 1}
    with tempfile.TemporaryDirectory() as folder:
        made = extract(source, extractor, aligner, Path(folder) / "set", settings, devices)
        _report_rejected(made)
        # In memory, because the folder is temporary.
        kept = EmbeddingSet(np.array(made.embeddings), made.labels, made.identities, made.files, made.meta)
        return Newcomers.of(kept, chosen, cfg.test)


def as_names(value: Any, key: str) -> list[str] | None:
    """One name or a list of names as a list; None stays None; an empty list, or anything but names, is refused."""
    if value is None:
        return None
    names = list(value) if OmegaConf.is_list(value) or isinstance(value, (list, tuple)) else [value]
    if not names or any(isinstance(name, bool) or not isinstance(name, (str, int)) for name in names):
        raise InputError(f"{key} = {value}", "a name or a list of names", f"write {key}=[anna,bert]")
    names = [str(name) for name in names]  # a person may be called 17
    if len(set(names)) < len(names):
        raise InputError(f"{key} = {value}", "each name once", "leave out the repetition")
    return names


def check_names(available: tuple[str, ...], chosen: list[str] | None, identifier: Identifier) -> None:
    """Refuses chosen people, None for all, who are not available or are enrolled already."""
    there, known = set(available), set(identifier.identities)
    for name in chosen if chosen is not None else available:
        if name not in there:
            some = ", ".join(sorted(available)[:3])
            cure = nearest(name, available, "correct identities=")
            raise InputError(f"no person {name!r} to add", f"one of {len(available)}, such as {some}", cure)
        if name in known:
            cure = f"add remove={name} to put new pictures in place of the old, or choose others with identities="
            raise InputError(f"{name!r}, who is enrolled already", "people who are not", cure)


class _ChosenPeople(ImageFolder):
    def __init__(self, root: str, chosen: Any, top_up_to: int):
        super().__init__(root, top_up_to=top_up_to)
        self.chosen = frozenset(chosen)

    def scan(self) -> Listing:
        found = super().scan()
        wanted = np.array([name in self.chosen for name in found.identities])
        return found.take(np.flatnonzero(wanted[found.labels]))


def _check_extractor(embedding_set: EmbeddingSet, identifier: Identifier) -> None:
    stated, found = identifier.provenance.get("extractor"), embedding_set.meta.get("extractor")
    cure = "extract the pictures with the extractor of the enrolled"
    if embedding_set.dim != identifier.dim:
        got = f"embeddings of dimension {embedding_set.dim}"
        raise InputError(got, f"{identifier.dim}, as the identifier was trained", cure)
    if stated and found and stated != found:
        raise InputError(f"embeddings by {found}", f"{stated}, as the enrolled", cure)
    if bool(stated) != bool(found):
        side = "the embeddings do" if stated else "the identifier does"
        logger.warning("%s not say which extractor made them; assumed to be the same", side)


def _report_rejected(made: EmbeddingSet) -> None:
    with open(made.path / "rejected.csv", encoding="utf-8", newline="") as stream:
        rejected = list(csv.DictReader(stream))
    for row in rejected[:5]:
        logger.warning("%s cannot be used: %s", row["file"], row["reason"])
    if len(rejected) > 5:
        logger.warning("and %d more cannot be used", len(rejected) - 5)
    if lost := sorted({row["identity"] for row in rejected} - set(made.identities)):
        cure = "leave them out with identities=, or look at the pictures"
        raise InputError(f"{lost[0]!r} without a usable picture", "at least one per person", cure)
