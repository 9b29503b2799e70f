# SPDX-License-Identifier: MIT
"""EmbeddingSet: embeddings, labels and identities in one folder, memory-mapped.

Axes: N samples, D embedding dimension, K identities.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.files import atomic_folder, open_npy, read_json, write_json
from datamodules.lazy import short_repr

CHUNK_ROWS = 65_536  # rows that a pass over a whole set reads at a time: 128 MiB of float32 at D = 512
UNKNOWN = "unknown"  # the answer for people who are not enrolled, unless another word is chosen
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class EmbeddingSet:
    """Embeddings of N samples of K identities, rows sorted by label."""

    embeddings: np.ndarray  # (N, D) float16 or float32, memory-mapped, not necessarily normalised
    labels: np.ndarray  # (N,) int32 in [0, K), non-decreasing, every label present
    identities: tuple[str, ...]  # K names, in the order of the labels
    files: tuple[str, ...] = ()  # N names of the source images, or an empty tuple
    meta: dict[str, Any] = field(default_factory=dict)  # content of `meta.json`: source, extractor fingerprint, ...
    path: Path | None = None  # the folder, or None for a set that is in memory only

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        return self.embeddings.shape[1]

    @property
    def n_identities(self) -> int:
        return len(self.identities)

    def sample_counts(self) -> np.ndarray:
        """(K,) int64 samples of each identity."""
        return np.bincount(self.labels, minlength=self.n_identities)

    def fingerprint(self) -> str:
        """A hash of shape, dtype, labels, names and 4,096 evenly spaced rows.

        A sample of the rows is enough against mix-ups, and quick for hundreds of gigabytes. It is none against forgery.
        """
        digest = hashlib.sha256(f"{self.embeddings.shape}{self.embeddings.dtype}".encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update("\n".join(self.identities).encode())
        rows = np.unique(np.linspace(0, max(len(self) - 1, 0), num=min(len(self), 4096)).astype(np.int64))
        digest.update(np.ascontiguousarray(self.embeddings[rows]).tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def open(cls, path: Path | str, check_values: bool = True) -> "EmbeddingSet":
        """Opens a folder with embeddings.npy, labels.npy, identities.txt, meta.json and, optionally, files.txt.

        Arrays of other numbers or byte order are converted in memory.

        Raises:
            InputError: a file is missing, damaged, or does not match the others.
        """
        folder = Path(path)
        if not folder.is_dir():
            cure = "check data.path, or make one with experiments.prepare"
            raise InputError(f"no folder {folder}", "an EmbeddingSet folder", cure)
        if not (folder / "meta.json").exists() and _has_pictures(folder):
            cure = f"embed them first: python -m experiments.prepare source.root={folder} extractor=... out=SET"
            raise InputError(f"{folder}, a folder of pictures", "an EmbeddingSet folder", cure)
        meta = read_json(folder / "meta.json")
        embeddings = open_npy(folder / "embeddings.npy", DTYPES, ndim=2)
        labels = np.asarray(open_npy(folder / "labels.npy", ("int32",), ndim=1))
        identities = _read_lines(folder / "identities.txt")
        files = _read_lines(folder / "files.txt") if (folder / "files.txt").exists() else ()
        opened = cls(embeddings, labels, identities, files, meta, folder)
        opened._check_structure()
        for key, value in (("count", len(opened)), ("identities", opened.n_identities), ("dim", opened.dim)):
            if key in meta and meta[key] != value:
                got = f"{folder}: meta.json states {key} = {meta[key]}, the arrays hold {value}"
                raise InputError(got, "the same number", "restore the file that was replaced, or write the set again")
        if check_values:
            opened.check_values()
        return opened

    @classmethod
    def write(
        cls, path: Path | str, embeddings: np.ndarray, labels: np.ndarray, identities: Sequence[str],
        files: Sequence[str] = (), **meta: Any,
    ) -> "EmbeddingSet":  # fmt: skip
        """Writes a set as a new folder, whole or not at all, and opens it.

        Args:
            embeddings: (N, D) numbers; all but float16 are stored as float32.
            labels: (N,) integers in [0, K), in any order: rows are stored in the order of the labels, stably.
            identities: K names without line breaks.
            **meta: further facts for meta.json: source, extractor fingerprint, ...; `unknown` is the word for people
                who are not enrolled, which no identity may have as its name ("unknown" if left out).

        Raises:
            InputError: shapes that do not match, labels with gaps, rows or names that `open` refuses, meta that states
                a fact of the arrays, or a folder that exists.
        """
        embeddings, labels = np.asarray(embeddings), np.asarray(labels)
        if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
            got = f"embeddings of shape {embeddings.shape}, {embeddings.dtype}"
            raise InputError(got, "(N, D) numbers", "pass one row per sample")
        if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iu":
            got = f"labels of shape {labels.shape}, {labels.dtype}"
            raise InputError(got, f"({len(embeddings)},) integers", "one label per embedding")
        if len(labels) and not (0 <= labels.min() and labels.max() < len(identities)):
            got = f"labels {labels.min()} to {labels.max()} with {len(identities)} identities"
            raise InputError(got, f"labels from 0 to {len(identities) - 1}", "make labels and identities agree")
        broken = [name for name in (*identities, *files) if "\n" in name or "\r" in name]
        if broken:
            raise InputError(f"{broken[0]!r}, a name with a line break", "one line per name", "rename it")
        dtype = embeddings.dtype.name if embeddings.dtype.name in DTYPES else "float32"
        facts = {"count": len(labels), "identities": len(identities), "dim": embeddings.shape[1], "dtype": dtype}
        if stated := facts.keys() & meta:
            cure = "leave it out; for another dtype pass embeddings.astype(...)"
            raise InputError(f"{' and '.join(sorted(stated))} in meta", "facts that the arrays do not state", cure)
        order = np.argsort(labels, kind="stable")
        names = tuple(files[i] for i in order) if len(files) == len(labels) else tuple(files)
        in_order = bool((order == np.arange(len(order))).all())
        made = cls(embeddings, labels[order].astype(np.int32), tuple(identities), names, meta)
        made._check_structure()
        with atomic_folder(path) as folder, np.errstate(over="ignore"):  # infinite values are refused below
            # Sorted in chunks into the map: a set larger than memory can be written from another map.
            file = folder / "embeddings.npy"
            target = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=embeddings.shape)
            for start in range(0, len(order), CHUNK_ROWS):
                chunk = slice(start, start + CHUNK_ROWS)
                target[chunk] = embeddings[chunk] if in_order else embeddings[order[chunk]]
            target.flush()
            cls(target, made.labels, made.identities).check_values()
            del target
            np.save(folder / "labels.npy", made.labels)
            for name, lines in (("identities.txt", made.identities), ("files.txt", made.files)):
                if lines:
                    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            write_json(folder / "meta.json", {**facts, "normalised": False, **meta})
        return cls.open(path, check_values=False)

    def _check_structure(self) -> None:
        name = self.path or "the set"
        n, k = len(self.embeddings), len(self.identities)
        if n == 0 or k == 0 or self.dim == 0:
            got = f"{name} with {n} embeddings of {k} identities, {self.dim}-d"
            raise InputError(got, "at least one of each", "check how it was made")
        for what, count in (("labels", len(self.labels)), ("file names", len(self.files) or n)):
            if count != n:
                raise InputError(f"{name}: {count} {what} for {n} embeddings", "one per row", "write the set again")
        drops = self.labels[1:] < self.labels[:-1]
        if drops.any():
            row = int(np.argmax(drops)) + 1
            got = f"{name}: label {self.labels[row]} after {self.labels[row - 1]} at row {row}"
            raise InputError(got, "rows sorted by label", "write the set with EmbeddingSet.write, which sorts")
        if self.labels[0] < 0 or self.labels[-1] >= k:
            got = f"{name}: labels {self.labels[0]} to {self.labels[-1]} with {k} identities"
            raise InputError(got, f"labels from 0 to {k - 1}", "make labels.npy and identities.txt agree")
        missing = np.flatnonzero(self.sample_counts() == 0)
        if len(missing):
            got = f"{name}: labels with gaps, {len(missing)} of {k} identities have no sample "
            got += f"(first: label {missing[0]}, {self.identities[missing[0]]!r})"
            cure = "leave out identities without samples and renumber"
            raise InputError(got, "every label from 0 to K - 1 at least once", cure)
        word = self.meta.get("unknown", UNKNOWN)
        check_names(self.identities, str(name), "rename one, in identities.txt or where the set is made", word)

    def check_values(self) -> None:
        """Reads all embeddings once, a chunk at a time.

        Raises:
            InputError: rows of NaN, infinity or zeros only, with how many and which is first; or several identities
                whose embeddings are all the same row, which nothing can tell apart.
        """
        wrong: dict[str, list[np.ndarray]] = {"not finite": [], "all zero": []}
        alike = self.n_identities > 1
        for start in range(0, len(self), CHUNK_ROWS):
            rows_ND = self.embeddings[start : start + CHUNK_ROWS]
            wrong["not finite"].append(start + np.flatnonzero(~np.isfinite(rows_ND).all(axis=1)))
            wrong["all zero"].append(start + np.flatnonzero(~rows_ND.any(axis=1)))
            alike = alike and bool((rows_ND == self.embeddings[0]).all())
        for kind, parts in wrong.items():
            if len(rows := np.concatenate(parts)):
                where = f"row {rows[0]}, identity {self.identities[self.labels[rows[0]]]!r}"
                where += f", {self.files[rows[0]]}" if self.files else ""
                got = f"{self.path or 'the set'}: {len(rows)} of {len(self)} embeddings are {kind} (first: {where})"
                raise InputError(got, "finite vectors with a direction", "remove those rows or extract them again")
        if alike:
            got = f"{self.path or 'the set'}: all {len(self)} embeddings are equal"
            raise InputError(got, f"embeddings that tell {self.n_identities} identities apart", "check the extractor")


def check_names(identities: Iterable[str], where: str, cure: str, unknown: str = UNKNOWN) -> None:
    """Refuses names of identities with which an answer would be ambiguous: one twice, or the word for unknown."""
    counts = Counter(identities)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise InputError(f"{where}: {count} identities called {name!r}", "each name once", cure)
    if unknown in counts:
        expected = f"another name: {unknown!r} is the answer for people who are not enrolled"
        cure += ", or choose another word: source.unknown= of prepare, EmbeddingSet.write(..., unknown=)"
        raise InputError(f"{where}: an identity called {unknown!r}", expected, cure)


def _has_pictures(folder: Path) -> bool:
    from datamodules.images import SUFFIXES  # Pillow, which a set does not need

    some = islice(chain(folder.glob("*"), folder.glob("*/*")), 1000)
    return any(file.suffix.lower() in SUFFIXES for file in some)


def _read_lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"no file {path}", "a text file with one name a line", "restore it or write the set again")
    try:
        return tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 ({error})", "UTF-8 text", "convert the file") from None
