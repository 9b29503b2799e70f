# SPDX-License-Identifier: MIT
"""The people to be added: from an EmbeddingSet, or from pictures.

Axes: N samples, Q people to be added, D embedding dimension.
"""

import csv
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from datamodules.class_means import class_means, normalise_rows
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, nearest
from datamodules.sources.base import Listing, original_of
from datamodules.sources.image_folder import ImageFolder
from datamodules.splits import NOTHING, Split, local_split, split_identities
from experiments.enrolment.original import Original, relabelled
from experiments.enrolment.request import as_names
from experiments.extraction.config import ExtractionConfig, enrolled_extractor, from_recipe
from experiments.extraction.extract import extract
from lightning_modules.identifier import Identifier

logger = logging.getLogger(__name__)
ROLES = ("train", "val", "test")
SAME = 1 - 1e-5  # cosine from which two embeddings are those of one picture: float16 rounds by less


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

    def of(self, split: Split, identifier: Identifier) -> Split:
        """One of the splits with indices into the people of an identifier as labels, in non-decreasing order."""
        place = {name: index for index, name in enumerate(identifier.identities)}
        return relabelled(split, np.array([place[name] for name in self.names], np.int32))

    def counts(self) -> dict[str, int]:
        """How many samples are in the class mean of each."""
        labels = np.concatenate([self.train.labels, self.val.labels])
        return dict(zip(self.names, np.bincount(labels, minlength=len(self.names)).tolist(), strict=True))

    @classmethod
    def split(cls, embedding_set: EmbeddingSet, chosen: list[str] | None, test: bool) -> "Newcomers":
        """The chosen people of a set, or all, split by `split_identities`; without `test` all samples train."""
        names = embedding_set.identities if chosen is None else tuple(chosen)
        place = {name: index for index, name in enumerate(names)}
        new_label = np.array([place.get(name, -1) for name in embedding_set.identities], np.int32)
        parts = [Split(np.arange(len(embedding_set)), embedding_set.labels), NOTHING, NOTHING]
        if test:
            splits = split_identities(embedding_set)
            parts = [splits.train, splits.val, splits.test]
        return cls(names, embedding_set.embeddings, *(relabelled(part, new_label) for part in parts))


class Enrolled:
    """The samples of people whom an identifier knows.

    People of the training data have their own. Those enrolled later count with their class mean, as often as they had
    pictures.
    """

    def __init__(self, identifier: Identifier, original: Original):
        self.identifier, self.original = identifier, original
        self._place = {name: row for row, name in enumerate(identifier.identities)}
        changes = identifier.provenance.get("enrolment") or []
        self._pictures = {name: n for change in changes for name, n in change.get("pictures", {}).items()}
        self._in_original = {} if original.missing else {name: row for row, name in enumerate(original.names)}

    def check_available(self, names: Iterable[str]) -> None:
        """Refuses people who are enrolled, but whose earlier samples are nowhere."""
        for name in names:
            trained = name in self._in_original and name not in self.original.replaced
            if name in self._place and not trained and name not in self._pictures:
                why = f" ({self.original.missing})" if self.original.missing else ""
                got = f"{name!r}, who is enrolled already with pictures that are not available"
                cure = (
                    f"add remove={name} to put the new pictures in place of the old, or choose others with identities="
                )
                raise InputError(f"{got}{why}", "the data of the training", cure)

    def joined(self, newcomers: Newcomers | None, moved: list[str], to: str | None) -> tuple[Newcomers, list[str]]:
        """Newcomers with the earlier samples of those who are enrolled, after moved pictures changed their person.

        Returns:
            All whose samples changed, and the names of those who have none left.

        Raises:
            InputError: pictures of a person that are not available, a picture that is not there, or nothing new.
        """
        given = self._given(newcomers) if newcomers else {}
        people = {name: self._samples(name) for name in given if name in self._place}
        for file in moved:
            self._move(file, str(to), people)
        for name, roles in given.items():
            earlier = people.get(name, {})
            people[name] = {role: [*earlier.get(role, []), rows] for role, rows in roles.items()}
        emptied = [name for name, roles in people.items() if not any(map(len, roles["train"] + roles["val"]))]
        return _newcomers({name: roles for name, roles in people.items() if name not in emptied}), emptied

    def _given(self, newcomers: Newcomers) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        for label, name in enumerate(newcomers.names):
            splits = {role: local_split(getattr(newcomers, role), np.array([label])) for role in ROLES}
            rows = {role: newcomers.embeddings_ND[split.rows] for role, split in splits.items()}
            roles = self._unseen(name, {role: np.asarray(part, np.float32) for role, part in rows.items()})
            if any(map(len, roles.values())):
                found[name] = roles
        if not found:
            got = f"{len(newcomers.names)} people who are enrolled already with all of these pictures"
            raise InputError(got, "a new picture, or a new person", "add some, or leave out embeddings= and images=")
        return found

    def _unseen(self, name: str, roles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # A folder may have the pictures that were enrolled beside new ones; those count once.
        if name not in self._in_original or name not in self._place:
            return roles
        data = self.original.embedding_set
        label = int(self.original.splits.enrolled[self._in_original[name]])
        known_ND = normalise_rows(data.embeddings[slice(*np.searchsorted(data.labels, [label, label + 1]))])
        return {
            role: rows[(normalise_rows(rows) @ known_ND.T).max(axis=1, initial=-1) < SAME]
            for role, rows in roles.items()
        }

    def _samples(self, name: str) -> dict[str, list[np.ndarray]]:
        if name in self._in_original and name not in self.original.replaced:
            data, label, found = self.original.embedding_set, self._in_original[name], {}
            for role in ROLES:
                rows = local_split(getattr(self.original.splits, role), np.array([label])).rows
                found[role] = [np.asarray(data.embeddings[[row]], np.float32) for row in rows]
            return found
        mean_1D = self.identifier.class_means_KD[[self._place[name]]].cpu().numpy()
        return {"train": [mean_1D] * self._pictures[name], "val": [], "test": []}

    def _move(self, file: str, to: str, people: dict[str, dict[str, list[np.ndarray]]]) -> None:
        if self.original.missing:
            raise InputError(self.original.missing, "the data of the training", "put the data back")
        data = self.original.embedding_set
        rows = [row for row, name in enumerate(data.files) if original_of(name) == file]
        if not rows:
            cure = nearest(file, data.files, "write it as in files.txt of the set")
            raise InputError(f"no picture {file!r}", f"one of the {len(data.files)} in {data.path}", cure)
        owner = data.identities[data.labels[rows[0]]]
        if owner not in self._place or owner in self.original.replaced:
            got = f"{file!r}, a picture of {owner!r}, who left or was changed since the training"
            raise InputError(got, "a person as trained", "move all pictures in one command, or give them with images=")
        if owner == to:
            raise InputError(f"{file!r}, a picture of {to!r} already", "another person", "correct to=")
        self.check_available([to])
        if to not in people:
            nobody: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
            people[to] = self._samples(to) if to in self._place else nobody
        people.setdefault(owner, {})
        if not people[owner]:
            people[owner] = self._samples(owner)
        for row in rows:
            moved = np.asarray(data.embeddings[[row]], np.float32)
            for role in ROLES:
                people[owner][role] = [one for one in people[owner][role] if not np.array_equal(one, moved)]
            people[to]["train"].append(moved)


def _newcomers(people: dict[str, dict[str, list[np.ndarray]]]) -> Newcomers:
    blocks, splits, start = [], [], 0
    for role in ROLES:
        counts = [sum(map(len, roles[role])) for roles in people.values()]
        blocks += [rows for roles in people.values() for rows in roles[role]]
        labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        splits.append(Split(start + np.arange(len(labels)), labels))
        start += len(labels)
    return Newcomers(tuple(people), np.concatenate(blocks), *splits)


def read_newcomers(cfg: DictConfig, enrolled: Enrolled) -> Newcomers | None:
    """The people that the configuration adds, or None.

    Raises:
        InputError: no such people, enrolled people whose pictures are not available (before any picture is read), or
            embeddings of another extractor.
    """
    chosen, identifier = as_names(cfg.identities, "identities"), enrolled.identifier
    if cfg.embeddings is not None:
        embedding_set = EmbeddingSet.open(cfg.embeddings)
        check_names(embedding_set.identities, chosen)
        enrolled.check_available(chosen or embedding_set.identities)
        _check_extractor(embedding_set, identifier)
        return Newcomers.split(embedding_set, chosen, cfg.test)
    if cfg.images is None:
        return None
    recipe = identifier.provenance.get("recipe") or {}
    node = from_recipe(recipe, "source")
    found = ImageFolder(cfg.images).scan().identities
    check_names(found, chosen)
    enrolled.check_available(chosen or found)
    top_up_to = 5 if node is None else node.top_up_to
    source = _ChosenPeople(cfg.images, chosen or found, top_up_to=top_up_to, unknown=identifier.unknown)
    extractor, aligner = enrolled_extractor(cfg, recipe, identifier, source)
    settings = ExtractionConfig(num_workers=cfg.num_workers, max_side=cfg.max_side)
    devices = {"accelerator": "cpu" if str(cfg.device) == "cpu" else "gpu", "devices": 1}
    with tempfile.TemporaryDirectory() as folder:
        made = extract(source, extractor, aligner, Path(folder) / "set", settings, devices)
        _report_rejected(made)
        # In memory, because the folder is temporary.
        kept = EmbeddingSet(np.array(made.embeddings), made.labels, made.identities, made.files, made.meta)
        return Newcomers.split(kept, chosen, cfg.test)


def check_names(available: tuple[str, ...], chosen: list[str] | None) -> None:
    """Refuses chosen people who are not available."""
    there = set(available)
    for name in chosen or ():
        if name not in there:
            some = ", ".join(sorted(available)[:3])
            cure = nearest(name, available, "correct identities=")
            raise InputError(f"no person {name!r} to add", f"one of {len(available)}, such as {some}", cure)


class _ChosenPeople(ImageFolder):
    def __init__(self, root: str, chosen: Any, **options: Any):
        super().__init__(root, **options)
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
