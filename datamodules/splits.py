# SPDX-License-Identifier: MIT
"""Enrolled identities, and their images for training, validation and test. Axes: N samples, K enrolled identities."""

from dataclasses import dataclass, replace

import numpy as np

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.lazy import short_repr
from datamodules.sources.base import groups_of, runs


@dataclass(frozen=True)
class Split:
    """Samples of one role: rows of an EmbeddingSet and their enrolled identity."""

    rows: np.ndarray  # (N,) int64 rows of the set, ascending
    labels: np.ndarray  # (N,) int32 enrolled identity in [0, K); non-decreasing

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.rows)


NOTHING = Split(np.zeros(0, np.int64), np.zeros(0, np.int32))


@dataclass(frozen=True)
class Splits:
    """Training, validation and test samples of K enrolled identities, and probes of people who are not enrolled."""

    train: Split  # train, val and test are disjoint
    val: Split
    test: Split
    enrolled: np.ndarray  # (K,) int32, the set's label of each enrolled identity, ascending
    # Samples of held-out identities, labelled 0 to (number of held-out identities) - 1.
    unknown: Split = NOTHING

    __repr__ = short_repr

    @property
    def n_identities(self) -> int:
        return len(self.enrolled)

    def with_validation(self) -> "Splits":
        """These splits with the validation samples among the training samples."""
        rows = np.concatenate([self.train.rows, self.val.rows])
        labels = np.concatenate([self.train.labels, self.val.labels])
        order = np.argsort(rows)
        return replace(self, train=Split(rows[order], labels[order]), val=NOTHING)

    def with_held_out(self, labels_N: np.ndarray) -> "Splits":
        """These splits with the held-out people enrolled after the others, all of their samples for training.

        `labels_N` are the labels of the whole set. The last part of `enrolled` is ascending again.
        """
        train = Split(
            np.concatenate([self.train.rows, self.unknown.rows]),
            np.concatenate([self.train.labels, self.unknown.labels + self.n_identities]).astype(np.int32),
        )
        held_out = np.unique(labels_N[self.unknown.rows]).astype(np.int32)
        return Splits(train, self.val, self.test, np.concatenate([self.enrolled, held_out]))


def check_size(wanted: int, available: int, n_held_out: int) -> None:
    """Refuses, with an `InputError`, to enrol more identities than are available and not held out, or none."""
    if not 1 <= wanted <= available - n_held_out:
        beside = f" beside {n_held_out} held out" if n_held_out else ""
        got = f"n_identities = {wanted}"
        raise InputError(got, f"1 to {available - n_held_out}{beside}", "lower n_identities or use a larger set")


def local_split(split: Split, members_C: np.ndarray) -> Split:
    """The samples of the identities `members_C`, ascending, labelled by the place of the identity among them."""
    # Labels are sorted: C searches find the samples among any number of others.
    start_C, stop_C = (np.searchsorted(split.labels, members_C, side) for side in ("left", "right"))
    count_C = stop_C - start_C
    inside = runs(start_C, count_C)
    return Split(split.rows[inside], np.repeat(np.arange(len(members_C), dtype=np.int32), count_C))


def split_sizes(counts_K: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of training, validation and test images of identities with `counts_K` images: three (K,) int64 arrays.

    From five images on: 20 % (rounded) test, 20 % validation, the rest (60 %) training. Fewer, without augmented
    copies: four give 2 / 1 / 1, three 2 / 0 / 1, two 1 / 0 / 1, and one is enrolled but not tested: 1 / 0 / 0.

    >>> [tuple(int(size) for size in sizes) for sizes in zip(*split_sizes(np.array([1, 2, 3, 4, 5, 20])))]
    [(1, 0, 0), (1, 0, 1), (2, 0, 1), (2, 1, 1), (3, 1, 1), (12, 4, 4)]
    """
    counts_K = np.asarray(counts_K, dtype=np.int64)
    fifth = (counts_K * 2 + 5) // 10  # round half up, in integers
    test = np.where(counts_K >= 2, np.maximum(fifth, 1), 0)
    val = np.where(counts_K >= 4, np.maximum(fifth, 1), 0)
    return counts_K - val - test, val, test


def split_identities(
    embedding_set: EmbeddingSet, n_identities: int | None = None, seed: int = 0, max_test_images: int | None = 5,
    held_out: float = 0.0, groups_N: np.ndarray | None = None, copies_together: bool = True,
    max_test_probes: int | None = None, refit: bool = False,
) -> Splits:  # fmt: skip
    """Draws identities and splits the images of each 60 / 20 / 20.

    Args:
        n_identities: K, identities to enrol, drawn at random; None enrols all that are not held out.
        seed: of the draw and of the shuffle inside each identity. A larger draw contains the smaller ones.
        max_test_images: test images of an identity, at most; the others are not used. None keeps all. The paper takes
            five, so that every identity weighs about the same.
        held_out: share of the identities, in [0, 1), that are not enrolled but serve as unknown people.
        groups_N: (N,) integers, equal for images that must stay on one side. Shares then count groups, and only the
            first image of a group (the original) is used outside training. None: each image is a group.
        copies_together: if groups_N is None, whether augmented copies, which the meta of a set states, are a group
            with their original.
        max_test_probes: test images of all identities together, at most, drawn at random; the others are not used.
        refit: whether the validation samples train as well, see `Splits.with_validation`.

    Returns:
        The splits; every enrolled identity has at least one training sample.

    Raises:
        InputError: more identities than there are, or numbers out of range.
    """
    available = embedding_set.n_identities
    if not 0 <= held_out < 1:
        raise InputError(f"held_out = {held_out}", "a share from 0 to below 1", "choose about 0.1 to 0.2")
    for key, value in {"max_test_images": max_test_images, "max_test_probes": max_test_probes}.items():
        if value is not None and value < 1:
            raise InputError(f"{key} = {value}", "at least 1, or None", f"correct split.{key}")
    if groups_N is None and copies_together and embedding_set.meta.get("copies"):
        groups_N = groups_of(embedding_set.files)
    n_held_out = round(available * held_out)
    wanted = available - n_held_out if n_identities is None else n_identities
    check_size(wanted, available, n_held_out)
    draw = np.random.default_rng([seed, 1]).permutation(available)
    enrolled = np.sort(draw[:wanted]).astype(np.int32)
    unknown = np.sort(draw[available - n_held_out :])

    everything = Split(np.arange(len(embedding_set)), embedding_set.labels)
    chosen = local_split(everything, enrolled)
    rows, labels = chosen.rows, chosen.labels
    # Random numbers for the whole set: the split of an identity does not depend on who else is enrolled.
    shuffle = np.random.default_rng([seed, 2]).random(len(embedding_set))
    if groups_N is None:
        rank, count = _rank_within(labels, shuffle[rows], wanted)
        original = np.ones(len(rows), dtype=bool)
    else:
        rank, count, original = _rank_of_groups(labels, np.asarray(groups_N)[rows], shuffle[rows], wanted)
    train_size, val_size, test_size = split_sizes(count)
    kept_test = test_size if max_test_images is None else np.minimum(test_size, max_test_images)
    end_train, end_val = train_size[labels], (train_size + val_size)[labels]
    role_val = (end_train <= rank) & (rank < end_val) & original
    role_test = (end_val <= rank) & (rank < end_val + kept_test[labels]) & original
    train, val, test = (Split(rows[role], labels[role]) for role in (rank < end_train, role_val, role_test))
    if max_test_probes is not None and len(test) > max_test_probes:
        kept = np.sort(np.random.default_rng([seed, 3]).choice(len(test), max_test_probes, replace=False))
        test = Split(test.rows[kept], test.labels[kept])
    splits = Splits(train, val, test, enrolled, local_split(everything, unknown))
    return splits.with_validation() if refit else splits


def _rank_within(labels: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.bincount(labels, minlength=k)
    rank = np.empty(len(labels), np.int64)
    rank[np.lexsort((keys, labels))] = runs(np.zeros(k, np.int64), counts)
    return rank, counts


def _rank_of_groups(
    labels: np.ndarray, groups: np.ndarray, keys: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    both = np.stack([labels, groups], axis=1)
    pairs, first, group_of = np.unique(both, axis=0, return_index=True, return_inverse=True)
    rank_of_group, count = _rank_within(pairs[:, 0].astype(np.int64), keys[first], k)
    return rank_of_group[group_of.reshape(-1)], count, np.isin(np.arange(len(labels)), first)


def clusters_for(n_identities: int) -> int:
    """The number of clusters by the rule of the paper: K / 2000 rounded down, at least 2, at most K.

    >>> [clusters_for(k) for k in (1, 1000, 5000, 8900, 50000)]
    [1, 2, 2, 4, 25]
    """
    return min(max(2, n_identities // 2000), n_identities)
