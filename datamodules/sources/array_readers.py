# SPDX-License-Identifier: MIT
"""Readers of embeddings and labels in the files of other programs, block by block, without pickle.

A block is rows of embeddings, their labels, or both. What a header says is compared with what the file holds before
anything of that size is made. Axes: B of a block, D embedding dimension.
"""

import csv
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from datamodules.errors import InputError, nearest, one_line
from datamodules.files import disk_error
from datamodules.sources.base import NAMES, Listing, unwritable

Block = tuple[np.ndarray | None, np.ndarray | None]  # (B, D) embeddings and (B,) labels; None: not in this block
BLOCK_BYTES = 1 << 24
BLOCK_ROWS = 4096  # of a text or a table
LABEL_FILES = (".npy", ".txt", ".csv")
_EMBEDDINGS, _LABELS = ("embeddings", "embedding"), ("labels", "label")  # what they are called if nobody says


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Names a file that a reader inside cannot read, in an `InputError`: each format names damage in many ways."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cure = "check the path, or write the file again"
        unreadable = InputError(f"{path}, unreadable ({one_line(error)})", "a whole file of its kind", cure)
        raise disk_error(error, path) or unreadable from None


class Labels:
    """Names of people, gathered block by block: four bytes for each sample."""

    def __init__(self, where: str):
        self._where, self._codes, self._code_of, self._numbers = where, array("i"), dict[str, int](), True

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, labels_B: np.ndarray) -> None:
        """Adds names or whole numbers, (B,); refuses others with an `InputError`."""
        kind = labels_B.dtype.kind
        whole = kind != "f" or bool((np.isfinite(labels_B) & (labels_B == np.floor(labels_B))).all())
        if labels_B.ndim != 1 or kind not in "fiuSUOT" or not whole:
            got = (
                f"{self._where}: labels of shape {labels_B.shape}, {labels_B.dtype}{'' if whole else ', not all whole'}"
            )
            raise InputError(got, "one name or whole number per embedding", "mend the labels")
        self._numbers = self._numbers and kind in "fiu"
        for one in (labels_B.astype(np.int64) if kind == "f" else labels_B).tolist():
            name = one.decode() if isinstance(one, bytes) else "" if one is None else str(one)
            self._codes.append(self._code_of.setdefault(name, len(self._code_of)))

    def listing(self, names: list[str] | None = None) -> Listing:
        """The samples by identity, called by `names` or by their places; refuses unusable names (`InputError`)."""
        for name in [*self._code_of, *(names or ())]:
            if reason := "blank name" if not name.strip() else unwritable(name):
                raise InputError(f"{self._where}: {name!r}, a {reason}", "a name that fits on a line", "mend it")
        # With zeros in front numbers are in order as names too.
        width = max(map(len, self._code_of), default=0) if self._numbers else 0
        identities = [name.zfill(width) for name in self._code_of]
        order = np.argsort(np.array(identities, NAMES))
        label_of = np.argsort(order).astype(np.int32)
        labels_N = label_of[np.frombuffer(self._codes, np.int32)]
        rows = np.argsort(labels_N, kind="stable")
        called = rows.astype(NAMES) if names is None else np.array(names, NAMES)[rows]
        return Listing(called, labels_N[rows], tuple(identities[place] for place in order))


def label_blocks(path: Path) -> Iterator[np.ndarray]:
    """(B,) labels of a file: an .npy, or text with one a line, in .csv with quotes or a first line `label`.

    Raises:
        InputError: another kind of array, or several columns.
    """
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as stream:
            yield from npy_blocks(stream, str(path), ndim=1)
        return
    with open(path, encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as stream:
        lines = csv.reader(stream) if path.suffix.lower() == ".csv" else ([line.rstrip("\n")] for line in stream)
        first = True
        while some := list(islice(lines, BLOCK_ROWS)):
            if wide := next((fields for fields in some if len(fields) != 1), None):
                raise InputError(f"{path} with the line {','.join(wide)[:80]!r}", "one label a line", "keep one column")
            some = some[1:] if first and path.suffix.lower() == ".csv" and some[0][0] in _LABELS else some
            first = False
            yield np.array([fields[0] for fields in some], object)


def npy_blocks(stream: IO[bytes], where: str, ndim: int = 2) -> Iterator[np.ndarray]:
    """Blocks of an .npy file's rows, (B, D) or (B,); memory stays bounded whatever its header says.

    Args:
        ndim: 2 for embeddings, of which a single one may stand alone as (D,); 1 for labels.

    Raises:
        InputError: another kind of array, or fewer bytes than the header says.
    """
    if np.lib.format.read_magic(stream) != (1, 0):  # later versions are for records and their names
        raise InputError(f"{where}, of a later version", "an .npy file of a plain array", "numpy.save the array")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if ndim == 2 and len(shape) == 1:
        shape = (1, *shape)
    if len(shape) != ndim or dtype.kind not in ("fiu" if ndim == 2 else "fiuSU") or not dtype.itemsize:
        raise InputError(f"{where} with shape {shape} of {dtype}", f"a {ndim}-d array of numbers", "numpy.save it so")
    if fortran and min(shape) > 1:
        raise InputError(f"{where}, stored by columns", "rows", "numpy.save(FILE, numpy.ascontiguousarray(ARRAY))")
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=object))
    if row_bytes > BLOCK_BYTES:
        raise InputError(f"{where} with rows of {row_bytes:,} bytes", f"at most {BLOCK_BYTES:,}", "store it by rows")
    for first in range(0, shape[0] if row_bytes else 0, step := max(1, BLOCK_BYTES // (row_bytes or 1))):
        count = min(step, shape[0] - first)
        if len(content := stream.read(count * row_bytes)) < count * row_bytes:
            got = f"{where}, which ends in row {first + len(content) // row_bytes:,} of {shape[0]:,}"
            raise InputError(got, "a whole file", "copy or write it again")
        yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def choose(path: Path, names: Sequence[str], column: str | None, label: str | None) -> tuple[list[str], str | None]:
    """The names of the embeddings, one or a column per dimension, and that of the labels, if there is one.

    Raises:
        InputError: a name that is not among `names`.
    """
    for wanted, key in ((label, "labels"), (column, "column")):
        if wanted is not None and not any(fnmatchcase(name, wanted) for name in names):
            cure = nearest(wanted, names, f"correct source.{key}")
            raise InputError(f"{path} without {wanted!r}", f"one of {', '.join(names)[:200] or 'nothing'}", cure)
    label = label or next((name for name in names if name in _LABELS), None)
    usual = [name for name in names if name in _EMBEDDINGS]
    rest = [name for name in names if name != label and name not in _LABELS]
    return [name for name in rest if fnmatchcase(name, column)] if column else usual[:1] or rest, label


def choose_one(path: Path, names: Sequence[str], column: str | None, label: str | None) -> tuple[str, str | None]:
    """`choose` where each embedding is one entry; raises an `InputError` if there are several to choose from."""
    chosen, label = choose(path, names, column, label)
    if len(chosen) != 1:
        raise InputError(f"{path} with {', '.join(names)[:200] or 'nothing'}", "one of them", "give source.column=")
    return chosen[0], label


def _npy(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    with open(path, "rb") as stream:
        yield from ((rows_BD, None) for rows_BD in npy_blocks(stream, str(path)))


def _npz(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    with zipfile.ZipFile(path) as archive:
        column, label = choose_one(path, [name.removesuffix(".npy") for name in archive.namelist()], column, label)
        with archive.open(f"{column}.npy") as stream:
            yield from ((rows_BD, None) for rows_BD in npy_blocks(stream, f"{path}: {column}"))
        if label is not None:
            with archive.open(f"{label}.npy") as stream:
                yield from ((None, labels_B) for labels_B in npy_blocks(stream, f"{path}: {label}", ndim=1))


def _people(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    for file in sorted(path.glob("*.npy")):
        with open(file, "rb") as stream:
            for rows_BD in npy_blocks(stream, str(file)):
                yield rows_BD, np.array([file.stem] * len(rows_BD), object)


def _csv(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream)
        first, second = next(lines, []), next(lines, [])
    if len(second) > len(first):  # pandas would take the first column for an index
        raise InputError(f"{path} with rows longer than the first", "rows of one length", "write it again")
    header = not all(map(_is_number, first))
    names = first if header else [str(place) for place in range(len(first))]
    columns, label = choose(path, names, column, label)
    if "" in columns:  # as pandas writes its index
        raise InputError(f"{path} with a column without name", "names", "leave it out, or give source.column=PATTERN")
    options = {"header": 0 if header else None, "names": names, "chunksize": BLOCK_ROWS}
    with pd.read_csv(path, converters={label: str} if label else None, **options) as chunks:
        for chunk in chunks:
            if chunk.empty:
                continue
            rows = chunk[columns]
            if len(columns) == 1 and rows.dtypes.iloc[0].kind == "O":
                lists = [cell.strip(" []()").replace(",", " ").split() for cell in rows[columns[0]].astype(str)]
                rows_BD = even(path, lists).astype(np.float64)
            else:
                if text := next((name for name in columns if rows[name].dtype.kind not in "fiu"), None):
                    cure = "leave the column out, or give source.column=PATTERN or source.labels="
                    raise InputError(f"{path}: column {text!r} with text", "numbers in every dimension", cure)
                rows_BD = rows.to_numpy()
            yield rows_BD, chunk[label].to_numpy(object) if label else None


def even(path: Path, lists: Sequence[Sequence]) -> np.ndarray:
    """(B, D) of B lists; raises an `InputError` unless all have one length."""
    if len(lengths := {len(one) for one in lists}) != 1:
        got = f"{path}: lists of {min(lengths)} to {max(lengths)} numbers"
        raise InputError(got, "one length", "leave out the others")
    return np.array(lists)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


READERS = {".npy": _npy, ".npz": _npz, ".csv": _csv, "/npy": _people}
# What tells the kinds of folders apart.
FOLDERS = {"state.json": "/arrow", "dataset_dict.json": "/arrow", "*.tar": "/tar", "*.npy": "/npy"}
