# SPDX-License-Identifier: MIT
"""Images in one folder per identity: root/person/*.jpg, or root/{train,val,test}/person/*.jpg."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError
from datamodules.images import SUFFIXES, RejectedImage, read_bytes
from datamodules.sources.base import NAMES, Listing, Source, unwritable

PARTS = ("train", "val", "test")  # MixMaxSim's layout
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\x00", b"MM\x00*")

logger = logging.getLogger(__name__)


class ImageFolder(Source):
    """A folder with one sub-folder per identity, or a folder of train, val and test with those inside.

    Images are known by their suffix or their first bytes; hidden files are skipped.

    Args:
        parts: folders among train, val and test to take, such as ["train"]; None takes all of them together.
        **options: see `Source`.
    """

    def __init__(self, root: Path | str, parts: list[str] | None = None, **options: Any):
        super().__init__(**options)
        self.root = Path(os.path.expanduser(root))
        self.parts = tuple(parts) if parts is not None else None

    def describe(self) -> str:
        return f"image folder {self.root.name}"

    def scan(self) -> Listing:
        if not self.root.is_dir():
            raise InputError(f"no folder {self.root}", "a folder with one sub-folder per identity", "check source.root")
        images: dict[str, list[str]] = {}
        ignored = 0
        for prefix in self._prefixes():
            for person in _entries(self.root / prefix, folders=True):
                files = _entries(self.root / prefix / person, folders=False)
                chosen = [name for name in files if _is_image(self.root / prefix / person / name)]
                ignored += len(files) - len(chosen)
                self._check_name(person)
                if chosen:
                    images.setdefault(person, []).extend(f"{prefix}{person}/{name}" for name in chosen)
        if ignored:
            logger.info("%d files that are no images are skipped in %s", ignored, self.root)
        if not images:
            expected = "one sub-folder per identity with its images, or train, val and test with those"
            raise InputError(f"{self.root} without images in sub-folders", expected, "check source.root")
        identities = tuple(sorted(images))
        names = [name for identity in identities for name in images[identity]]
        for name in names:
            self._check_name(name)
        counts = [len(images[identity]) for identity in identities]
        labels = np.repeat(np.arange(len(identities), dtype=np.int32), counts)
        return Listing(np.array(names, NAMES), labels, identities)

    def read(self, name: str) -> bytes:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise RejectedImage("name that leads out of the folder")
        return read_bytes(self.root / name)

    def _prefixes(self) -> tuple[str, ...]:
        there = _entries(self.root, folders=True)
        holds_people = any(_entries(self.root / part, folders=True) for part in there if part in PARTS)
        split = holds_people and set(there) <= set(PARTS)
        if self.parts is None:
            return tuple(f"{part}/" for part in PARTS if part in there) if split else ("",)
        missing = [part for part in self.parts if part not in there]
        if not split or missing:
            got = f"{self.root} without {', '.join(missing or self.parts)}"
            raise InputError(got, "those folders", "leave out source.parts")
        return tuple(f"{part}/" for part in self.parts)

    def _check_name(self, name: str) -> None:
        if reason := unwritable(name):
            raise InputError(f"{self.root}: {name!r}, a {reason}", "a name that fits on a line", "rename it")


def _entries(folder: Path, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            chosen = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir() == folders]
    except OSError as error:
        got = f"{folder}, unreadable ({error.strerror})"
        raise InputError(got, "a folder that may be read", "mend its rights") from None
    return sorted(chosen)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with open(path, "rb") as stream:
            return stream.read(8).startswith(_MAGIC)
    except OSError:
        return False
