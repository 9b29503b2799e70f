# SPDX-License-Identifier: MIT
"""From finished shards to the files of an EmbeddingSet.

Axes: N images, D embedding dimension.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.embedding_set import CHUNK_ROWS, EmbeddingSet
from datamodules.files import write_json
from datamodules.sources.base import Listing
from experiments.extraction.shards import ShardStore


@dataclass(frozen=True)
class Part:
    """Images that were embedded together.

    Attributes:
        listing: those with an embedding.
        embeddings: (N, D) of all, memory-mapped.
        rows: (len(listing),) rows of `embeddings`.
        rejected: names without an embedding -> why.
        identity_of: names without an embedding -> identity.
    """

    listing: Listing
    embeddings: np.ndarray
    rows: np.ndarray
    rejected: dict[str, str]
    identity_of: dict[str, str]

    @classmethod
    def of(cls, listing: Listing, store: ShardStore) -> "Part":
        """What a store holds once all its shards are finished."""
        rejected = store.rejected()
        rows = np.setdiff1d(np.arange(len(listing)), np.fromiter(rejected, np.int64, len(rejected)))
        return cls(
            listing.take(rows),
            store.embeddings(),
            rows,
            {str(listing.names[row]): reason for row, reason in rejected.items()},
            {str(listing.names[row]): listing.identities[listing.labels[row]] for row in rejected},
        )


def assemble(folder: Path, parts: list[Part], meta: dict[str, Any]) -> None:
    """Writes an EmbeddingSet with `rejected.csv`, in constant memory per row.

    Args:
        parts: the originals, and perhaps their copies; the originals name the identities.

    Raises:
        InputError: what was written is no valid set.
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
    _write_lines(folder / "identities.txt", identities)
    _write_lines(folder / "files.txt", names[order].tolist())
    _write_rejected(folder / "rejected.csv", parts)
    facts = {"count": len(order), "identities": len(identities), "dim": dim, "dtype": dtype.name, "normalised": False}
    counts = {"rejected": len(parts[0].rejected), "copies": sum(len(part.rows) for part in parts[1:])}
    write_json(folder / "meta.json", {**facts, **counts, **meta})
    EmbeddingSet.open(folder, check_values=True)


def _write_lines(path: Path, lines: tuple[str, ...] | list[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def _write_rejected(path: Path, parts: list[Part]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "identity", "reason"])
        for part in parts:
            writer.writerows([name, part.identity_of[name], reason] for name, reason in part.rejected.items())
