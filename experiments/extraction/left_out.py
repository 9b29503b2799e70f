# SPDX-License-Identifier: MIT
"""The people and folders that a command left out, for its last lines."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from datamodules.embedding_set import EmbeddingSet
from datamodules.images import SUFFIXES
from datamodules.sources.base import Source
from datamodules.sources.image_folder import ImageFolder
from experiments.command_line.terminal import LINE, results

SHOWN = 10


def left_out(source: Source, made: EmbeddingSet) -> dict[str, str]:
    """People of a source who are not in the set made from it, and folders that were not read, with reasons."""
    with open(made.path / "rejected.csv", encoding="utf-8", newline="") as stream:
        lost = {row["identity"] for row in csv.DictReader(stream)} - set(made.identities)
    found = dict.fromkeys(sorted(lost), "no usable picture")
    if isinstance(source, ImageFolder):
        listing = source.scan()
        drawn = sorted(set(listing.identities) - set(made.identities) - lost)
        found |= dict.fromkeys(drawn, "by source.min_images or source.n_identities")
        found |= folders_left_out(source.root, listing.names.tolist())
    return found


def folders_left_out(root: Path, read: Iterable[str]) -> dict[str, str]:
    """Folders in which nothing was read, and pictures outside of the folders that were, with reasons.

    `read` has the pictures that were read, relative to `root`.
    """
    used = {name.rpartition("/")[0] for name in read}
    above = {parent.as_posix() for folder in used for parent in Path(folder).parents}
    found = {}
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        place = Path(folder).relative_to(root).as_posix()
        pictures = sum(Path(name).suffix.lower() in SUFFIXES for name in files if not name.startswith("."))
        if place in used or (place == "." and "" in used):
            continue
        if pictures:
            found[place] = f"{pictures} pictures, not in the folder of a person"
        elif place not in above and not below:
            found[place] = "no picture" if files else "empty"
    return found


def show_left_out(found: dict[str, str]) -> None:
    """Prints a line for each, at most `SHOWN`, and the number of the others."""
    for name, reason in list(found.items())[:SHOWN]:
        results().print(f"left out: {name} ({reason})", **LINE)
    if len(found) > SHOWN:
        results().print(f"and {len(found) - SHOWN:,} more were left out", **LINE)
