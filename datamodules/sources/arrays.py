# SPDX-License-Identifier: MIT
"""Embeddings that another program made, as a source: read in blocks, written as an EmbeddingSet.

Axes: N embeddings, B of a block, D embedding dimension, K identities.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.extraction.assembling import Part, assemble
from datamodules.files import atomic_folder
from datamodules.sources import array_readers, tables, tensors, webdataset
from datamodules.sources.array_readers import LABEL_FILES, Block, Labels, label_blocks, readable
from datamodules.sources.base import Listing, Source

READERS = {**array_readers.READERS, **tensors.READERS, **tables.READERS, **webdataset.READERS}


class Arrays(Source):
    """Embeddings with labels: an array, a table or a folder of another program.

    float16 stays, other numbers become float32. Memory holds one block, the labels and the names, not the embeddings.

    Args:
        embeddings: file or folder; the YAML lists the formats.
        labels: a file with one label per embedding, or the name of the labels beside the embeddings in their file.
            Numbers are names too, with zeros in front.
        column: name of the embeddings in a file that holds more; in a table also a pattern such as `e_*`.
        **options: see `Source`; copies are made of pictures only.
    """

    def __init__(
        self, embeddings: Path | str, labels: str | None = None, column: str | None = None, **options: Any
    ):  # fmt: skip
        super().__init__(top_up_to=0, **options)
        self.embeddings = Path(os.path.expanduser(embeddings))
        beside = labels is not None and Path(labels).suffix.lower() in LABEL_FILES
        self.labels = os.path.expanduser(labels) if labels is not None and beside else labels
        self.column, self._beside = column, beside

    def describe(self) -> str:
        return f"arrays {self.embeddings.name}"

    def scan(self) -> Listing:
        cure = "make a set of it with experiments.prepare, and give that as data.path="
        raise InputError(f"source=arrays ({self.embeddings})", "a source of pictures", cure)

    def read(self, name: str) -> bytes:
        raise NotImplementedError("a source without pictures is never listed")

    def write(self, out: Path | str) -> EmbeddingSet:
        """Writes those that the options choose as a new EmbeddingSet, whole or not at all.

        The lines of files.txt are the places of the embeddings in the source, from 0.

        Raises:
            InputError: a file that is missing, damaged or of another kind; rows of different lengths; numbers that are
                not finite, or rows of zeros; labels that are missing, too many or unusable; or `out` exists.
        """
        with atomic_folder(out) as folder, tempfile.TemporaryFile(dir=folder) as raw:
            found = self._copy(raw)
            chosen = self.choose(found)
            rows = np.array(chosen.names.tolist(), np.int64)
            raw.flush()
            stored_ND = np.memmap(raw, self._dtype, "r", shape=(len(found), self._dim))
            assemble(folder, [Part(chosen, stored_ND, rows, rows, {})], self.provenance())
        return EmbeddingSet.open(out, check_values=False)

    def _copy(self, raw) -> Listing:
        count, labels = 0, Labels(f"{self.labels or self.embeddings}")
        for rows_BD, labels_B in self._blocks():
            if rows_BD is not None:
                rows_BD = self._checked(rows_BD, count)
                raw.write(rows_BD.data)
                count += len(rows_BD)
            if labels_B is not None:
                labels.add(labels_B)
        if not count or len(labels) != count:
            cure = "give source.labels=, a file or a name in the file" if not len(labels) else "make the two agree"
            raise InputError(f"{self.embeddings}: {len(labels):,} labels for {count:,} embeddings", "one each", cure)
        return labels.listing()

    def _blocks(self) -> Iterator[Block]:
        path = self.embeddings
        kind = path.suffix.lower()
        if path.is_dir():
            kind = next((kind for mark, kind in array_readers.FOLDERS.items() if any(path.glob(mark))), "")
        if not path.exists() or kind not in READERS:
            got = f"{path}, {'of another kind' if path.exists() else 'which is not there'}"
            expected = f"a file {', '.join(READERS)}, an Arrow data set, or a folder of .npy or .tar files"
            raise InputError(got, expected, "check source.embeddings")
        with readable(path):
            yield from READERS[kind](path, self.column, None if self._beside else self.labels)
        if self._beside:
            with readable(path := Path(str(self.labels))):
                yield from ((None, labels_B) for labels_B in label_blocks(path))

    def _checked(self, rows_BD: np.ndarray, first: int) -> np.ndarray:
        where = f"{self.embeddings}, from row {first:,} on"
        if rows_BD.ndim != 2 or rows_BD.dtype.kind not in "fiu":
            got = f"{where}: shape {rows_BD.shape} of {rows_BD.dtype}"
            raise InputError(got, "(N, D) numbers", "store one row of numbers per sample")
        dtype = np.dtype(np.float16 if rows_BD.dtype == np.float16 else np.float32)
        if first == 0:
            self._dim, self._dtype = rows_BD.shape[1], dtype
        elif (self._dim, self._dtype) != (rows_BD.shape[1], dtype):
            got = f"{where}: {rows_BD.shape[1]} numbers of {dtype}"
            raise InputError(got, f"{self._dim} of {self._dtype}, as before", "store all embeddings alike")
        with np.errstate(over="ignore"):  # refused here, as infinite
            rows_BD = np.ascontiguousarray(rows_BD, dtype)
        wrong = np.flatnonzero(~(np.isfinite(rows_BD).all(axis=1) & rows_BD.any(axis=1)))
        if wrong.size:
            what = "zeros only" if np.isfinite(rows_BD[wrong[0]]).all() else "numbers that are not finite"
            got = f"{self.embeddings}: row {first + wrong[0]:,} with {what}"
            raise InputError(got, "finite vectors with a direction", "remove such rows, or compute them again")
        return rows_BD
