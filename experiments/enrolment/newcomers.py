# SPDX-License-Identifier: MIT
"""The people to be added: from an EmbeddingSet, or from pictures.

Axes: Q people to be added, D embedding dimension.
"""

import csv
import logging
import tempfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from datamodules.class_means import class_means
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.sources.base import Listing
from datamodules.sources.image_folder import ImageFolder
from datamodules.splits import Split, split_identities
from experiments.enrolment.config import as_names
from experiments.enrolment.original import relabelled
from experiments.extraction.config import build_aligner, from_recipe
from experiments.extraction.extract import ExtractionSettings, extract
from experiments.picture_identification.identify import build_extractor
from lightning_modules.identifier import Identifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Newcomers:
    """Q people and their samples; false where there are none.

    Attributes:
        names: Q names.
        embeddings_ND: of all samples, memory-mapped or not.
        train, val, test: rows of `embeddings_ND`, labels in [0, Q); test samples are in no class mean.
    """

    names: tuple[str, ...]
    embeddings_ND: np.ndarray
    train: Split
    val: Split
    test: Split

    def __bool__(self) -> bool:
        return bool(self.names)

    def class_means(self) -> Tensor:
        """(Q, D) float32 unit means of the samples that are not kept for the test."""
        rows = np.concatenate([self.train.rows, self.val.rows])
        both = Split(rows, np.concatenate([self.train.labels, self.val.labels]))
        people = np.arange(len(self.names), dtype=np.int32)
        return torch.from_numpy(class_means(self.embeddings_ND, relabelled(both, people), len(people)))

    @classmethod
    def of(cls, embedding_set: EmbeddingSet, chosen: list[str] | None, test: bool) -> "Newcomers":
        """Shares of 60, 20 and 20 % of each person's samples, as `split_identities` makes them.

        Args:
            chosen: their names; None takes all.
            test: whether to keep samples for a test, of those who have more than one.
        """
        names = embedding_set.identities if chosen is None else tuple(chosen)
        label_of = {name: label for label, name in enumerate(embedding_set.identities)}
        new_label = np.full(embedding_set.n_identities, -1, np.int32)
        new_label[[label_of[name] for name in names]] = np.arange(len(names))

        if test:
            splits = split_identities(embedding_set)
            parts = [splits.train, splits.val, splits.test]
        else:
            nothing = Split(np.zeros(0, np.int64), np.zeros(0, np.int32))
            parts = [Split(np.arange(len(embedding_set)), embedding_set.labels), nothing, nothing]
        return cls(names, embedding_set.embeddings, *(relabelled(part, new_label) for part in parts))


def read_newcomers(cfg: DictConfig, identifier: Identifier) -> Newcomers | None:
    """The people that the configuration names; None where it names none.

    Raises:
        InputError: no such people, people who are enrolled already (before any picture is looked at), or embeddings of
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
    source_node = from_recipe(recipe, "source")
    source = _ChosenPeople(cfg.images, chosen, top_up_to=5 if source_node is None else source_node.top_up_to)
    check_names(source.scan().identities, chosen, identifier)
    extractor = build_extractor(cfg.extractor, recipe, identifier)
    node = cfg.alignment if cfg.alignment is not None else from_recipe(recipe, "alignment")
    aligner = build_aligner(node, source, extractor)
    settings = ExtractionSettings(num_workers=cfg.num_workers, max_side=cfg.max_side)
    devices = {"accelerator": "cpu" if str(cfg.device) == "cpu" else "gpu", "devices": 1}
    with tempfile.TemporaryDirectory() as folder:
        made = extract(source, extractor, aligner, Path(folder) / "set", settings, devices)
        _report_rejected(made, chosen)
        # In memory: the folder goes.
        kept = EmbeddingSet(np.array(made.embeddings), made.labels, made.identities, made.files, made.meta)
        return Newcomers.of(kept, chosen, cfg.test)


def check_names(available: tuple[str, ...], chosen: list[str] | None, identifier: Identifier) -> None:
    """Refuses people who are not there, and those who are enrolled already.

    Args:
        available: names in the set or folder.
        chosen: None for all.

    Raises:
        InputError: the first such person.
    """
    there, known = set(available), set(identifier.identities)
    for name in chosen if chosen is not None else available:
        if name not in there:
            near = ", ".join(get_close_matches(name, available, 3) or sorted(available)[:3])
            expected = f"one of {len(available)}, such as {near}"
            raise InputError(f"no person {name!r} to add", expected, "correct identities=")
        if name in known:
            cure = f"add remove={name} to put new pictures in place of the old, or choose others with identities="
            raise InputError(f"{name!r}, who is enrolled already", "people who are not", cure)


class _ChosenPeople(ImageFolder):
    def __init__(self, root: str, chosen: list[str] | None, top_up_to: int):
        super().__init__(root, top_up_to=top_up_to)
        self.chosen = chosen

    def scan(self) -> Listing:
        found = super().scan()
        if self.chosen is None or not set(self.chosen) & set(found.identities):
            return found
        wanted = np.array([name in set(self.chosen) for name in found.identities])
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
        logger.warning("%s not say which extractor made them; taken to be the same", side)


def _report_rejected(made: EmbeddingSet, chosen: list[str] | None) -> None:
    with open(made.path / "rejected.csv", encoding="utf-8", newline="") as stream:
        rejected = list(csv.DictReader(stream))
    for row in rejected[:5]:
        logger.warning("%s cannot be used: %s", row["file"], row["reason"])
    if len(rejected) > 5:
        logger.warning("and %d more cannot be used", len(rejected) - 5)
    lost = sorted({row["identity"] for row in rejected} - set(made.identities))
    if lost:
        cure = "leave them out with identities=, or look at the pictures"
        raise InputError(f"{lost[0]!r} without a usable picture", "at least one per person", cure)
