# SPDX-License-Identifier: MIT
"""WebDataset shards: .tar files whose members `key.extension` with one key, one after another, are one sample.

Members are read where they lie and never unpacked: their names are names and no paths. Axis: D embedding dimension.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.images import MAX_FILE_BYTES, SUFFIXES, RejectedImage
from datamodules.sources.array_readers import Block, Labels, choose_one, npy_blocks, readable
from datamodules.sources.base import Listing, Source

MAX_TEXT_BYTES = 1 << 20  # of a header, or of a member with a label
_TEXTS = ("cls", "txt", "json")
Place = tuple[int, int]  # offset and size in the shard, in bytes


class _Headers(io.FileIO):
    """A file of which tarfile reads headers only; a header may ask for any number of bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_TEXT_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def samples(shard: Path) -> Iterator[tuple[str, dict[str, Place]]]:
    """Keys of the samples of a shard, and the places of their members by extension.

    Raises:
        InputError: a damaged or compressed archive, or a member that does not end within it.
    """
    for key, members in groupby(_members(shard), key=lambda member: member[0]):
        yield key, {extension: place for _, extension, place in members}


def _members(shard: Path) -> Iterator[tuple[str, str, Place]]:
    with readable(shard), _Headers(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        end, last = os.fstat(file.fileno()).st_size, -1
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # tarfile would keep them all
            if not last < member.offset_data <= member.offset_data + member.size <= end:
                raise InputError(f"{shard}: {member.name[:80]!r} beyond the end", "a whole file", "copy it again")
            last = member.offset_data
            if member.isreg():
                folder, slash, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                yield folder + slash + stem, extension.lower(), (member.offset_data, member.size)


def _content(shard: Path, place: Place, most: int) -> bytes:
    if place[1] > most:
        raise InputError(f"{shard}: a member of {place[1]:,} bytes", f"at most {most:,}", "leave it out")
    with open(shard, "rb") as stream:
        stream.seek(place[0])
        return stream.read(place[1])


def _label(shard: Path, key: str, parts: dict[str, Place], wanted: str | None) -> str:
    extension = next((one for one in ((wanted,) if wanted else _TEXTS) if one in parts), None)
    if extension is None:
        cure = f"give {'source.label' if wanted else 'source.labels'}= its extension"
        raise InputError(f"{shard}: {key} without {wanted or ' or '.join(_TEXTS)}", "a label for each sample", cure)
    text = _content(shard, parts[extension], MAX_TEXT_BYTES).decode().strip()
    return str(json.loads(text)["label"] if extension.endswith("json") else text)


def _shards(root: Path) -> list[Path]:
    return sorted(root.glob("*.tar")) if root.is_dir() else [root]


def _embeddings(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    for shard in _shards(path):
        for key, parts in samples(shard):
            names = [name for name in parts if name.endswith("npy") or name == column]
            chosen, _ = choose_one(shard, names, column, None)
            stream = io.BytesIO(_content(shard, parts[chosen], MAX_FILE_BYTES))
            for rows_BD in npy_blocks(stream, f"{shard}: {key}"):
                yield rows_BD, np.array([_label(shard, key, parts, label)] * len(rows_BD), object)


class WebDataset(Source):
    """Pictures in shards: called `shard.tar/offset-size/key.extension`, in bytes.

    Args:
        root: folder with .tar files, or one of them.
        label: extension of the members with the label: text, or for json a key `label`; None takes cls, txt or json.
        aligned: whether the pictures are face crops already.
        **options: see `Source`.
    """

    def __init__(self, root: Path | str, label: str | None = None, aligned: bool = False, **options: Any):
        super().__init__(**options)
        self.root, self.label, self.aligned = Path(os.path.expanduser(root)), label, aligned

    def describe(self) -> str:
        return f"WebDataset {self.root.name}"

    def scan(self) -> Listing:
        names, labels = list[str](), Labels(str(self.root))
        for shard in _shards(self.root):
            for key, parts in samples(shard):
                if (picture := next((one for one in parts if f".{one}" in SUFFIXES), None)) is not None:
                    with readable(shard):
                        labels.add(np.array([_label(shard, key, parts, self.label)], object))
                    names.append(f"{shard.name}/{parts[picture][0]}-{parts[picture][1]}/{key}.{picture}")
        if not names:
            raise InputError(f"{self.root} without pictures", ".tar with key.jpg and key.cls", "check source.root")
        return labels.listing(names)

    def read(self, name: str) -> bytes:
        shard, place, _ = (*name.split("/", 2), "", "")[:3]
        try:
            offset, size = map(int, place.split("-"))
            if Path(shard).name != shard or offset < 0 or size < 0:
                raise ValueError("name that leads out of the shards")
            return _content(self.root / shard if self.root.is_dir() else self.root, (offset, size), MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise RejectedImage(f"no such member: {error}") from None


READERS = {".tar": _embeddings, "/tar": _embeddings}
