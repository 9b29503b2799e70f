# SPDX-License-Identifier: MIT
"""Parquet files, and data sets that Hugging Face's `datasets` saved to disk (Arrow), read with pyarrow alone.

Axes: B rows of a batch, D embedding dimension.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, needed_package
from datamodules.files import read_json, replace_file
from datamodules.images import RejectedImage
from datamodules.sources.array_readers import BLOCK_ROWS, Block, Labels, choose, readable
from datamodules.sources.base import Listing, Source

_CURE = "save it anew with save_to_disk"


def _arrow() -> Any:
    with needed_package("pyarrow", "pyarrow for this file", "pip install 'clusterface[arrays]'"):
        import pyarrow.parquet
    return pyarrow


def write_parquet(embedding_set: EmbeddingSet, path: Path | str) -> None:
    """Writes a table block by block: label (the name), embedding (a list) and, if they are known, file.

    Raises:
        InputError: pyarrow is not installed, or the disk cannot be used.
    """
    arrow = _arrow()
    embedding = arrow.list_(arrow.from_numpy_dtype(embedding_set.embeddings.dtype), embedding_set.dim)
    fields = {"label": arrow.string(), "embedding": embedding}
    schema = arrow.schema({**fields, "file": arrow.string()} if embedding_set.files else fields)
    with replace_file(path) as temporary, arrow.parquet.ParquetWriter(temporary, schema) as writer:
        for first in range(0, len(embedding_set), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            names = [embedding_set.identities[label] for label in embedding_set.labels[rows]]
            flat = arrow.array(embedding_set.embeddings[rows].reshape(-1))
            columns = [arrow.array(names), arrow.FixedSizeListArray.from_arrays(flat, embedding_set.dim)]
            files = [arrow.array(embedding_set.files[rows])] if embedding_set.files else []
            writer.write_batch(arrow.RecordBatch.from_arrays([*columns, *files], schema=schema))


def _parquet(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    with _arrow().parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        names, label = choose(path, file.schema_arrow.names, column, label)
        used = [*names, *([label] if label else [])]
        yield from _blocks(path, file.iter_batches(BLOCK_ROWS, columns=used), names, label, [])


def _folder(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    data = ArrowFiles(path)
    names, label = choose(path, data.names, column, label)
    for file in data.files:
        yield from _blocks(path, data.batches(file), names, label, data.people(label))


def _blocks(path: Path, batches: Iterable, names: list[str], label: str | None, people: list[str]) -> Iterator[Block]:
    for whole in batches:
        whole = whole.select([*names, *([label] if label else [])])
        whole.validate(full=True)  # offsets in a damaged file lead anywhere
        for first in range(0, len(whole), BLOCK_ROWS):
            batch = whole.slice(first, BLOCK_ROWS)
            parts = [_numbers(path, name, batch.column(name)) for name in names]
            rows_BD = np.stack(parts, axis=1) if parts[0].ndim == 1 else parts[0]
            yield rows_BD, _labels(batch.column(label), people) if label else None


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    types, values = _arrow().types, column
    listed = types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)
    if listed:
        lengths = set(column.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            got = f"{path}: {name} with lists of lengths {', '.join(sorted(map(str, lengths))[:5])}"
            raise InputError(got, "one length", "leave out the others")
        values = column.flatten()
    if not (types.is_integer(values.type) or types.is_floating(values.type)):
        cure = "give source.column=, a name or a pattern, or source.labels="
        raise InputError(f"{path}: column {name!r} of {values.type}", "numbers, or lists of them", cure)
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1) if listed else values.to_numpy(False)


def _labels(column: Any, people: list[str]) -> np.ndarray:
    if _arrow().types.is_dictionary(column.type):
        column = column.dictionary_decode()
    labels_B = column.to_numpy(zero_copy_only=False)
    if people and (labels_B < 0).any():  # as `datasets` writes a label that is not known
        raise InputError("class labels below 0", "a label for each row", "leave out the rows without")
    return np.array(people, object)[labels_B] if people else labels_B


class ArrowFiles:
    """The files and columns of a folder that `save_to_disk` wrote, mapped into memory; refuses another folder."""

    def __init__(self, root: Path):
        if (root / "dataset_dict.json").is_file():
            raise InputError(f"{root}, a folder of several data sets", "one of them", f"name {root}/train or the like")
        self.root = root
        listed = read_json(root / "state.json", _CURE).get("_data_files")
        self.files = [str(one.get("filename")) for one in listed or [] if isinstance(one, dict)]
        if not self.files or any(Path(name).name != name for name in self.files):
            raise InputError(f"{root}/state.json without files in the folder", "data-*.arrow", _CURE)
        self._features = read_json(root / "dataset_info.json", _CURE).get("features") or {}
        with self._open(self.files[0]) as reader:
            self.names = reader.schema.names

    def batches(self, file: str) -> Iterator[Any]:
        """The record batches of a file, not yet validated."""
        with self._open(file) as reader:
            yield from reader

    def people(self, label: str | None) -> list[str]:
        """The names behind the numbers of a column of class labels; none for any other column."""
        feature = self._features.get(label) if label else None
        named = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        return list(map(str, named or []))

    def _open(self, file: str) -> Any:
        arrow = _arrow()
        return arrow.ipc.open_stream(arrow.memory_map(str(self.root / file)))


class ArrowImages(Source):
    """Pictures in a data set that Hugging Face's `datasets` saved to disk: called `data-file/row`.

    Args:
        root: the folder with state.json.
        image: column of pictures, encoded.
        label: column of numbers, class labels or names.
        aligned: whether the pictures are face crops already.
        **options: see `Source`.
    """

    def __init__(
        self, root: Path | str, image: str = "image", label: str = "label", aligned: bool = False, **options: Any
    ):  # fmt: skip
        super().__init__(**options)
        self.root, self.image, self.label = Path(os.path.expanduser(root)), image, label
        self.aligned, self._tables = aligned, dict[str, Any]()

    def __getstate__(self) -> dict:
        return {**vars(self), "_tables": {}}

    def describe(self) -> str:
        return f"Arrow data set {self.root.name}"

    def scan(self) -> Listing:
        labels, names = Labels(str(self.root)), list[str]()
        with readable(self.root):
            data = ArrowFiles(self.root)
            choose(self.root, data.names, self.image, self.label)
            for file in data.files:
                count = 0
                for batch in data.batches(file):
                    batch = batch.select([self.image, self.label])
                    batch.validate(full=True)
                    labels.add(_labels(batch.column(self.label), data.people(self.label)))
                    names += [f"{file}/{row}" for row in range(count, count + len(batch))]
                    count += len(batch)
        if not names:
            raise InputError(f"{self.root} without rows", "pictures", "check source.root")
        return labels.listing(names)

    def read(self, name: str) -> bytes:
        file, _, row = name.partition("/")
        try:
            if file not in self._tables:
                batches = ArrowFiles(self.root).batches(file) if Path(file).name == file else ()
                self._tables[file] = _arrow().Table.from_batches(batches).column(self.image)
            found = self._tables[file][int(row)].as_py()
        except (ValueError, LookupError, OSError) as error:
            raise RejectedImage(f"no such row: {error}") from None
        found = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(found, bytes):
            raise RejectedImage("no bytes of a picture in the data set")
        return found


READERS = {".parquet": _parquet, "/arrow": _folder}
