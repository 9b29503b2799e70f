# SPDX-License-Identifier: MIT
"""From finished shards to the files of an EmbeddingSet. Axes: N images, D embedding dimension."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.embedding_set import CHUNK_ROWS, EmbeddingSet
from datamodules.extraction.shards import ShardStore
from datamodules.files import write_json
from datamodules.sources.base import Listing


@dataclass(frozen=True)
class Part:
    """Images that were embedded together."""

    listing: Listing  # those with an embedding
    embeddings: np.ndarray  # (N, D) of all, memory-mapped
    rows: np.ndarray  # (len(listing),) rows of `embeddings`
    rejected: list[tuple[str, str, str]]  # name, identity and reason of each image without an embedding

    @classmethod
    def of(cls, listing: Listing, store: ShardStore) -> "Part":
        """The content of a store whose shards are all finished."""
        reasons = store.rejected()
        rows = np.setdiff1d(np.arange(len(listing)), np.fromiter(reasons, np.int64, len(reasons)))
        rejected = [
            (str(listing.names[row]), listing.identities[listing.labels[row]], reason)
            for row, reason in reasons.items()
        ]
        return cls(listing.take(rows), store.embeddings(), rows, rejected)


def assemble(folder: Path, parts: list[Part], meta: dict[str, Any]) -> None:
    """Writes an EmbeddingSet with `rejected.csv`, in constant memory per row; raises `InputError` if it is not valid.

    The first part has the originals, which name the identities, the second perhaps their copies.
    """
    identities = parts[0].listing.identities
    label_of = {identity: label for label, identity in enumerate(identities)}
    renumbered = [np.array([label_of[name] for name in part.listing.identities], np.int32) for part in parts]
    labels = np.concatenate([new[part.listing.labels] for new, part in zip(renumbered, parts, strict=True)])
    part_of = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    names = np.concatenate([part.listing.names for part in parts])
    order = np.argsort(labels, kind="stable")  # originals stay before copies

    folder.mkdir()
    dtype, dim = parts[0].embeddings.dtype, parts[0].embeddings.shape[1]
    target = np.lib.format.open_memmap(folder / "embeddings.npy", mode="w+", dtype=dtype, shape=(len(order), dim))
    for start in range(0, len(order), CHUNK_ROWS):
        chunk = order[start : start + CHUNK_ROWS]
        for number, part in enumerate(parts):
            mine = part_of[chunk] == number
            target[start : start + len(chunk)][mine] = part.embeddings[rows[chunk[mine]]]
    target.flush()
    np.save(folder / "labels.npy", labels[order])
    for name, lines in (("identities.txt", identities), ("files.txt", names[order].tolist())):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    with open(folder / "rejected.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "identity", "reason"), *(row for part in parts for row in part.rejected)])
    facts = {"count": len(order), "identities": len(identities), "dim": dim, "dtype": dtype.name, "normalised": False}
    counts = {"rejected": len(parts[0].rejected), "copies": sum(len(part.rows) for part in parts[1:])}
    write_json(folder / "meta.json", {**facts, **counts, **meta})
    EmbeddingSet.open(folder, check_values=True)
