# SPDX-License-Identifier: MIT
"""From finished shards to the files of an EmbeddingSet. Axes: N images, D embedding dimension."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.embedding_set import CHUNK_ROWS, EmbeddingSet
from datamodules.errors import InputError
from datamodules.extraction.shards import ShardStore
from datamodules.files import write_json
from datamodules.sources.base import Listing, is_copy


@dataclass(frozen=True)
class Part:
    """Images that were embedded together."""

    listing: Listing  # those with an embedding
    embeddings: np.ndarray  # (N, D) of all, memory-mapped
    rows: np.ndarray  # (len(listing),) rows of `embeddings`
    places: np.ndarray  # (len(listing),) places among all images of the source
    rejected: dict[int, tuple[str, str, str]]  # by place: name, identity and reason of images without an embedding

    @classmethod
    def of(cls, listing: Listing, store: ShardStore, places: np.ndarray) -> "Part":
        """The content of a store whose shards are all finished; `places`, (N,), are those of the listing."""
        reasons = store.rejected()
        rows = np.setdiff1d(np.arange(len(listing)), np.fromiter(reasons, np.int64, len(reasons)))
        rejected = {
            int(places[row]): (str(listing.names[row]), listing.identities[listing.labels[row]], reason)
            for row, reason in reasons.items()
        }
        return cls(listing.take(rows), store.embeddings(), rows, places[rows], rejected)

    @classmethod
    def known(cls, listing: Listing, earlier: "Earlier", places: np.ndarray) -> "Part":
        """Those images of a listing, at `places`, (N,), that an earlier set has, or has rejected."""
        rows = np.array([earlier.row_of.get(name, -1) for name in listing.names], np.int64)
        rejected = {
            int(places[row]): (name, listing.identities[listing.labels[row]], earlier.rejected[name])
            for row, name in enumerate(listing.names)
            if name in earlier.rejected
        }
        there = np.flatnonzero(rows >= 0)
        return cls(listing.take(there), earlier.embeddings, rows[there], places[there], rejected)


@dataclass(frozen=True)
class Earlier:
    """A finished set that gets more images."""

    embeddings: np.ndarray  # (N, D), memory-mapped
    row_of: dict[str, int]  # by line of files.txt
    rejected: dict[str, str]  # reasons by name

    @classmethod
    def open(cls, folder: Path) -> "Earlier":
        """Opens a set of `assemble`."""
        made = EmbeddingSet.open(folder, check_values=False)
        with open(folder / "rejected.csv", encoding="utf-8", newline="") as file:
            rejected = {row["file"]: row["reason"] for row in csv.DictReader(file)}
        return cls(made.embeddings, {name: row for row, name in enumerate(made.files)}, rejected)

    def has(self, names: np.ndarray) -> np.ndarray:
        """(n,) whether each of the names was embedded or rejected."""
        return np.array([name in self.row_of or name in self.rejected for name in names], bool)

    def check_all_there(self, names: np.ndarray, folder: Path, source: str) -> None:
        """Refuses images of the set that are not among `names`, (N,)."""
        there = set(names.tolist())
        earlier = [*(name for name in self.row_of if not is_copy(name)), *self.rejected]
        if gone := [name for name in earlier if name not in there]:
            got = f"{folder}, made with images that are not there now ({len(gone)}, first: {gone[0]})"
            raise InputError(got, f"all of them in {source}, and perhaps more", "put them back, or name another out")


def assemble(folder: Path, parts: list[Part], meta: dict[str, Any]) -> None:
    """Writes an EmbeddingSet with `rejected.csv`, in constant memory per row; raises `InputError` if it is not valid.

    Images of one identity are in the order of their places.
    """
    identities = tuple(sorted({name for part in parts for name in part.listing.identities}))
    label_of = {identity: label for label, identity in enumerate(identities)}
    renumbered = [np.array([label_of[name] for name in part.listing.identities], np.int32) for part in parts]
    labels = np.concatenate([new[part.listing.labels] for new, part in zip(renumbered, parts, strict=True)])
    part_of = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    names = np.concatenate([part.listing.names for part in parts])
    order = np.lexsort((np.concatenate([part.places for part in parts]), labels))

    folder.mkdir(exist_ok=True)
    dtype, dim = parts[0].embeddings.dtype, parts[0].embeddings.shape[1]
    target = np.lib.format.open_memmap(folder / "embeddings.npy", mode="w+", dtype=dtype, shape=(len(order), dim))
    for start in range(0, len(order), CHUNK_ROWS):
        chunk = order[start : start + CHUNK_ROWS]
        for number, part in enumerate(parts):
            mine = part_of[chunk] == number
            target[start : start + len(chunk)][mine] = part.embeddings[rows[chunk[mine]]]
    target.flush()
    del target  # `open` maps the file once more
    np.save(folder / "labels.npy", labels[order])
    for name, lines in (("identities.txt", identities), ("files.txt", names[order].tolist())):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    with open(folder / "rejected.csv", "w", encoding="utf-8", newline="") as file:
        rejected = {place: row for part in parts for place, row in part.rejected.items()}
        csv.writer(file).writerows([("file", "identity", "reason"), *(rejected[place] for place in sorted(rejected))])
    facts = {"count": len(order), "identities": len(identities), "dim": dim, "dtype": dtype.name, "normalised": False}
    originals = [name for part in parts for name, _, _ in part.rejected.values() if not is_copy(name)]
    counts = {"rejected": len(originals), "copies": sum(map(is_copy, names))}
    write_json(folder / "meta.json", {**facts, **counts, **meta})
    EmbeddingSet.open(folder, check_values=True)
