# SPDX-License-Identifier: MIT
"""Verification pairs in the format of LFW's pairs.txt, resolved to rows of an EmbeddingSet. Axis: P pairs."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError

MAX_BYTES = 1 << 30
FORMAT = "LFW's format: a first line 'folds pairs', then 'name i j' for the same person and 'name i other j' for two"
_ABSENT, _AMBIGUOUS = -1, -2
_MOST_IMAGES = 100  # of a person, among whose pairs is drawn: 4,950 pairs


@dataclass(frozen=True)
class VerificationPairs:
    """P pairs of images in folds with pairs of both kinds."""

    left: np.ndarray  # (P,) int64 rows of the images in the EmbeddingSet, as `right`
    right: np.ndarray
    same: np.ndarray  # (P,) bool, whether both show one person
    fold: np.ndarray  # (P,) int64 in [0, n_folds)
    n_folds: int

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def read(cls, path: Path | str, embedding_set: EmbeddingSet) -> "VerificationPairs":
        """Reads a pairs file; each fold has the pairs of one person first, then as many of two.

        Image 7 of Ann is the line `Ann/Ann_0007.jpg`, `Ann/7.png` or, without folders, `Ann_0007.jpg` of files.txt.
        Refuses another format, and images that the set does not hold.
        """
        rows_of = _rows_by_person_and_number(embedding_set)
        lines = _read_lines(Path(path))
        n_folds, per_kind = _header(path, lines[0])
        body = lines[1:]
        if len(body) != 2 * n_folds * per_kind:
            expected = f"{2 * n_folds * per_kind}, as its first line states ({n_folds} folds of 2 x {per_kind})"
            raise InputError(f"{path} with {len(body)} pairs", expected, "restore the file")
        place = np.arange(len(body))
        same = place // per_kind % 2 == 0
        ends = [_ends(path, number + 2, line, same[number]) for number, line in enumerate(body)]
        rows = np.array([[rows_of.get(image, _ABSENT) for image in pair] for pair in ends], dtype=np.int64)
        ambiguous = np.argwhere(rows == _AMBIGUOUS)
        if len(ambiguous):
            name, number = ends[ambiguous[0, 0]][ambiguous[0, 1]]
            raise InputError(f"{path}: several images {number} of {name} in files.txt", "one", "number the images anew")
        absent = np.argwhere(rows == _ABSENT)
        if len(absent):
            pair, side = absent[0]
            name, number = ends[pair][side]
            got = f"{path}: {len(set(absent[:, 0]))} of {len(body)} pairs name images that "
            got += f"{embedding_set.path or 'the set'} does not hold (first: line {pair + 2}, image {number} of {name})"
            cure = "extract these images too, or take the pairs that belong to this set"
            raise InputError(got, "images listed in files.txt", cure)
        return cls(rows[:, 0], rows[:, 1], same, place // (2 * per_kind), n_folds)

    @classmethod
    def draw(cls, labels_N: np.ndarray, n_folds: int = 10, per_kind: int = 300, seed: int = 0) -> "VerificationPairs":
        """Draws pairs from labelled images; no identity is in two folds.

        Args:
            per_kind: pairs of one person, and of two, in each fold; fewer if a fold does not have so many.

        Raises:
            InputError: fewer than two identities with two images for each fold.
        """
        random = np.random.default_rng(seed)
        counts = np.bincount(labels_N)
        people = random.permutation(np.flatnonzero(counts > 1))
        if len(people) < 2 * n_folds:
            got = f"{len(people)} identities with two or more images for {n_folds} folds of pairs"
            raise InputError(got, f"at least {2 * n_folds}", "hold out more identities, or ask for fewer folds")
        order = np.argsort(labels_N, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        chosen = []
        for part in np.array_split(people, n_folds):
            images = [random.permutation(order[starts[p] : starts[p + 1]])[:_MOST_IMAGES] for p in part]
            same = np.concatenate([np.stack([one[i] for i in np.triu_indices(len(one), 1)], axis=1) for one in images])
            # Two random images rarely show one person; those are left out.
            two = np.concatenate(images)[random.integers(0, sum(map(len, images)), (20 * per_kind, 2))]
            two = np.unique(np.sort(two[labels_N[two[:, 0]] != labels_N[two[:, 1]]], axis=1), axis=0)
            chosen.append((random.permutation(same)[:per_kind], random.permutation(two)[:per_kind]))
        least = min(len(pairs) for fold in chosen for pairs in fold)
        pairs = np.concatenate([pairs[:least] for fold in chosen for pairs in fold])
        place = np.arange(len(pairs))
        return cls(pairs[:, 0], pairs[:, 1], place // least % 2 == 0, place // (2 * least), n_folds)


def _rows_by_person_and_number(embedding_set: EmbeddingSet) -> dict[tuple[str, int], int]:
    if not embedding_set.files:
        got = f"{embedding_set.path or 'a set'} without files.txt"
        raise InputError(got, "the name of every image", "extract it with file names")
    rows = {}
    for row, file in enumerate(embedding_set.files):
        path = PurePosixPath(file)
        digits = re.search(r"(\d{1,9})$", path.stem)
        if digits:
            name = path.parent.name or path.stem[: digits.start()].rstrip("_- ")
            key = (name, int(digits[1]))
            rows[key] = _AMBIGUOUS if key in rows else row
    return rows


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"no file {path}", "a file of verification pairs", "check pairs")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} of {path.stat().st_size:,} bytes", f"at most {MAX_BYTES:,}", "check pairs")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 ({error})", "UTF-8 text", "convert the file") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{path}, which is empty", FORMAT, "restore the file")
    return lines


def _header(path: Path | str, line: str) -> tuple[int, int]:
    fields = line.split()
    if len(fields) == 1:  # LFW's development files: one fold, only the number of pairs stated
        fields = ["1", *fields]
    if len(fields) != 2 or not all(re.fullmatch(r"0*[1-9]\d{0,8}", field) for field in fields):
        raise InputError(f"{path}, line 1: {line[:80]!r}", FORMAT, "restore the file")
    return int(fields[0]), int(fields[1])


def _ends(path: Path | str, number: int, line: str, same: bool) -> tuple[tuple[str, int], tuple[str, int]]:
    # Names may hold blanks; an editor may have replaced the tabs.
    fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
    expected = "'name i j'" if same else "'name i other j'"
    numbers = (fields[1], fields[-1]) if len(fields) == (3 if same else 4) else ("",)
    if not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
        raise InputError(f"{path}, line {number}: {line[:80]!r}", f"{expected} ({FORMAT})", "restore the file")
    return (fields[0], int(fields[1])), (fields[0] if same else fields[2], int(fields[-1]))
