# SPDX-License-Identifier: MIT
"""Every face of every picture: found, cropped, embedded. Axes: F faces, D embedding dimension, S side of a crop."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules.alignment import Aligner, Face
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.images import SUFFIXES, RejectedImage, decode, read_bytes
from experiments.command_line.terminal import notes


@dataclass(frozen=True)
class Probes:
    """Faces in the order of their pictures, the largest of a picture first."""

    files: list[str]  # F names of pictures, relative to the folder
    boxes_F4: np.ndarray  # (F, 4) left, top, right, bottom in pixels of the upright picture
    embeddings_FD: np.ndarray  # (F, D) float32
    numbers: list[int]  # F numbers of faces among those that were found in the picture
    rejected: dict[str, str]  # pictures without a face that could be embedded, and why


def list_pictures(path: Path) -> tuple[Path, list[str]]:
    """The folder, and the pictures in it and below it, relative to it, in alphabetical order.

    The path may be one picture; files of a folder are taken by their suffix. Refuses a path without pictures.
    """
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise InputError(f"no folder {path}", "a folder of pictures, or a picture", "check images=")
    names = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        chosen = [Path(folder, name) for name in files if not name.startswith(".")]
        names += [file.relative_to(path).as_posix() for file in chosen if file.suffix.lower() in SUFFIXES]
    if not names:
        raise InputError(f"{path} without pictures", "at least one", "check images=")
    return path, sorted(names)


class FacesDataset(Dataset):
    """For each picture its name and its faces, the largest first, or the reason why there are none.

    Args:
        max_side: pixels; pictures with a longer side are shrunk first. Boxes are in pixels of the picture itself.
        main_only: whether each picture shows one person: one face, which is looked for harder.
    """

    def __init__(self, folder: Path, names: list[str], aligner: Aligner, max_side: int, main_only: bool):
        self.folder, self.names, self.aligner = folder, names, aligner
        self.max_side, self.main_only = max_side, main_only

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, list[Face] | str]:
        name = self.names[index]
        try:
            picture = decode(read_bytes(self.folder / name), self.max_side)
            pixels_HWC = picture.pixels_HWC
            faces = [self.aligner.main_face(pixels_HWC)] if self.main_only else self.aligner.faces(pixels_HWC)
        except RejectedImage as rejection:
            return name, rejection.reason
        if not faces:
            return name, "no face found"
        faces = [Face(face.box / picture.scale, face.score, face.crop_SSC) for face in faces]
        return name, sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))


def probe(pictures: FacesDataset, extractor: Extractor, num_workers: int = 2, device: str = "cpu") -> Probes:
    """Finds and embeds every face of every picture."""
    extractor = extractor.to(device)
    files: list[str] = []
    boxes: list[np.ndarray] = []
    numbers: list[int] = []
    embeddings, rejected = [np.zeros((0, extractor.embedding_dim), np.float32)], {}
    total = len(pictures)
    found = _faces(pictures, range(total), num_workers)
    for name, faces in track(found, console=notes(), description="pictures", total=total, transient=True):
        if isinstance(faces, str):
            rejected[name] = faces
            continue
        images = torch.from_numpy(np.stack([face.crop_SSC for face in faces])).to(device)
        z = extractor.embed_images(images).float().cpu().numpy()
        usable = np.flatnonzero(np.isfinite(z).all(axis=1) & z.any(axis=1))
        if not len(usable):
            rejected[name] = "embedding is not finite, or all zero"
        files += [name] * len(usable)
        boxes += [faces[number].box for number in usable]
        numbers += usable.tolist()
        embeddings.append(z[usable])
    boxes_F4 = np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)
    return Probes(files, boxes_F4, np.concatenate(embeddings), numbers, rejected)


def crops(pictures: FacesDataset, probes: Probes, chosen: Sequence[int], num_workers: int = 2) -> list[np.ndarray]:
    """(S, S, 3) uint8 RGB crops of chosen faces. They are found again: those of all faces may not fit into memory."""
    wanted = {probes.files[face] for face in chosen}
    rows = [row for row, name in enumerate(pictures.names) if name in wanted]
    found: dict[str, Any] = dict(_faces(pictures, rows, num_workers))
    return [found[probes.files[face]][probes.numbers[face]].crop_SSC for face in chosen]


def _faces(pictures: FacesDataset, rows: Sequence[int], num_workers: int) -> Iterable[tuple[str, list[Face] | str]]:
    return DataLoader(Subset(pictures, rows), batch_size=None, num_workers=min(num_workers, len(rows)))
