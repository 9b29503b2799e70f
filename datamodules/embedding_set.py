# SPDX-License-Identifier: MIT
"""EmbeddingSet: embeddings, labels and identities in one folder, memory-mapped.

Axes: N samples, D embedding dimension, K identities.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.files import atomic_folder, open_npy, read_json, write_json

CHUNK_ROWS = 65_536  # rows read at a time where a whole set is streamed: 128 MiB of float32 at D = 512


@dataclass(frozen=True)
class EmbeddingSet:
    """Embeddings of N samples of K identities, rows sorted by label.

    Attributes:
        embeddings: (N, D) float16 or float32, memory-mapped, not necessarily normalised.
        labels: (N,) int32 in [0, K), non-decreasing, every label present.
        identities: K names; the place in the list is the label.
        files: N names of the source images, or an empty tuple.
        meta: what `meta.json` says: source, extractor fingerprint and whatever else the maker stated.
        path: the folder, or None for a set that lives in memory only.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    identities: tuple[str, ...]
    files: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        """D, the embedding dimension."""
        return self.embeddings.shape[1]

    @property
    def n_identities(self) -> int:
        """K, the number of identities."""
        return len(self.identities)

    def sample_counts(self) -> np.ndarray:
        """Number of samples of each identity: (K,) int64."""
        return np.bincount(self.labels, minlength=self.n_identities)

    def fingerprint(self) -> str:
        """A hash that changes when the data change: of shape, dtype, labels, names and 4,096 evenly spaced rows.

        Rows are sampled so that a set of hundreds of gigabytes is recognised at once; it guards against mix-ups,
        not against forgery.
        """
        digest = hashlib.sha256(f"{self.embeddings.shape}{self.embeddings.dtype}".encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update("\n".join(self.identities).encode())
        rows = np.unique(np.linspace(0, max(len(self) - 1, 0), num=min(len(self), 4096)).astype(np.int64))
        digest.update(np.ascontiguousarray(self.embeddings[rows]).tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def open(cls, path: Path | str, check_values: bool = True) -> "EmbeddingSet":
        """Opens a folder as EmbeddingSet.

        Args:
            path: the folder with embeddings.npy, labels.npy, identities.txt, meta.json and perhaps files.txt.
            check_values: also stream through the embeddings and refuse NaN, infinity and zero rows.

        Raises:
            InputError: a file is missing, damaged, or does not match the others.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(
                f"no folder {folder}", "an EmbeddingSet folder", "check data.path, or make one with experiments.prepare"
            )
        meta = read_json(folder / "meta.json")
        embeddings = open_npy(folder / "embeddings.npy", ("float16", "float32"), ndim=2)
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
        cls,
        path: Path | str,
        embeddings: np.ndarray,
        labels: np.ndarray,
        identities: list[str] | tuple[str, ...],
        files: list[str] | tuple[str, ...] = (),
        **meta: Any,
    ) -> "EmbeddingSet":
        """Writes a set as a new folder, whole or not at all, and opens it.

        Args:
            embeddings: (N, D) float16 or float32.
            labels: (N,) integers in [0, K), in any order: rows are sorted by label, stably, as they are written.
            identities: K names, without line breaks.
            files: N names of source images, or nothing.
            **meta: further facts for meta.json: source, extractor fingerprint, ...

        Raises:
            InputError: shapes that do not match, labels with gaps, NaN, infinity or zero rows, or a folder that exists.
        """
        embeddings, labels = np.asarray(embeddings), np.asarray(labels)
        if embeddings.ndim != 2 or embeddings.dtype.name not in ("float16", "float32"):
            got = f"embeddings of shape {embeddings.shape}, {embeddings.dtype}"
            raise InputError(got, "(N, D), float16 or float32", "convert them")
        if labels.shape != (len(embeddings),) or labels.dtype.kind not in "iu":
            got = f"labels of shape {labels.shape}, {labels.dtype}"
            raise InputError(got, f"({len(embeddings)},) integers", "one label per embedding")
        if len(labels) and not (0 <= labels.min() and labels.max() < len(identities)):
            got = f"labels {labels.min()} to {labels.max()} with {len(identities)} identities"
            raise InputError(got, f"labels from 0 to {len(identities) - 1}", "make labels and identities agree")
        broken = [name for name in (*identities, *files) if "\n" in name or "\r" in name]
        if broken:
            raise InputError(f"{broken[0]!r}, a name with a line break", "one line per name", "rename it")
        order = np.argsort(labels, kind="stable")
        names = tuple(files[i] for i in order) if len(files) == len(labels) else tuple(files)
        in_order = bool((order == np.arange(len(order))).all())
        made = cls(embeddings, labels[order].astype(np.int32), tuple(identities), names)
        made._check_structure()
        with atomic_folder(path) as folder:
            # Sorted in chunks into the map, so that a set larger than memory can be written from another map.
            target = np.lib.format.open_memmap(
                folder / "embeddings.npy", mode="w+", dtype=embeddings.dtype, shape=embeddings.shape
            )
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
            facts = {"count": len(labels), "identities": len(identities), "dim": embeddings.shape[1]}
            write_json(folder / "meta.json", {**facts, "dtype": embeddings.dtype.name, "normalised": False, **meta})
        return cls.open(path, check_values=False)

    def _check_structure(self) -> None:
        name = self.path or "the set"
        n, k = len(self.embeddings), len(self.identities)
        if n == 0 or k == 0 or self.dim == 0:
            got = f"{name} with {n} embeddings of {k} identities, {self.dim}-d"
            raise InputError(got, "at least one of each", "check how it was made")
        if len(self.labels) != n:
            raise InputError(
                f"{name}: {len(self.labels)} labels for {n} embeddings", "one label per row", "write labels.npy again"
            )
        if self.files and len(self.files) != n:
            raise InputError(
                f"{name}: {len(self.files)} file names for {n} embeddings", "one name per row", "write files.txt again"
            )
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

    def check_values(self) -> None:
        """Streams through the embeddings once; an N x D of any size in constant memory.

        Raises:
            InputError: NaN, infinity or zero rows, with how many and where the first is.
        """
        checks = {"not finite": lambda rows: np.isfinite(rows).all(axis=1), "all zero": lambda rows: rows.any(axis=1)}
        for kind, good in checks.items():
            count, first = 0, -1
            for start in range(0, len(self), CHUNK_ROWS):
                rows = np.flatnonzero(np.logical_not(good(self.embeddings[start : start + CHUNK_ROWS])))
                first = start + int(rows[0]) if first < 0 and len(rows) else first
                count += len(rows)
            if count:
                where = f"row {first}, identity {self.identities[self.labels[first]]!r}"
                where += f", {self.files[first]}" if self.files else ""
                got = f"{self.path or 'the set'}: {count} of {len(self)} embeddings are {kind} (first: {where})"
                raise InputError(got, "finite vectors with a direction", "remove those rows or extract them again")


def _read_lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"no file {path}", "a text file with one name a line", "restore it or write the set again")
    try:
        return tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, not UTF-8 ({error})", "UTF-8 text", "convert the file") from None
