# SPDX-License-Identifier: MIT
"""Every face of every picture: found, cropped, embedded.

Axes: F faces, D embedding dimension, S side of a crop.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from datamodules.alignment import Aligner, Face
from datamodules.errors import InputError
from datamodules.extractors.base import Extractor
from datamodules.images import SUFFIXES, RejectedImage, decode, read_bytes
from experiments.coordination.screen import notes


@dataclass(frozen=True)
class Probes:
    """Faces in the order of their pictures, the largest of a picture first.

    Attributes:
        files: F names of pictures, relative to the folder.
        boxes_F4: (F, 4) left, top, right, bottom in pixels of the upright picture.
        embeddings_FD: (F, D) float32.
        crops: (S, S, 3) uint8 RGB of the first faces, as many as were asked for.
        rejected: pictures without a face that could be embedded, and why.
    """

    files: list[str]
    boxes_F4: np.ndarray
    embeddings_FD: np.ndarray
    crops: list[np.ndarray]
    rejected: dict[str, str]


def list_pictures(path: Path) -> tuple[Path, list[str]]:
    """Pictures in a folder and all below it, by their suffix; or one picture.

    Returns:
        The folder, and names relative to it in alphabetical order.

    Raises:
        InputError: nothing there.
    """
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise InputError(f"no folder {path}", "a folder of pictures, or a picture", "check images=")
    names = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        chosen = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
        names += [(Path(folder) / name).relative_to(path).as_posix() for name in chosen]
    if not names:
        raise InputError(f"{path} without pictures", "at least one", "check images=")
    return path, sorted(names)


class FacesDataset(Dataset):
    """Picture -> its faces, with boxes in pixels of the picture itself, or the reason why there are none.

    Args:
        max_side: pictures are shrunk to so many pixels first.
        main_only: whether each picture is said to show one person: one face, looked for harder.
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


def probe(
    path: Path, extractor: Extractor, aligner: Aligner, max_side: int = 4096, num_workers: int = 2, keep_crops: int = 0,
    device: str = "cpu", main_only: bool = False,
) -> Probes:  # fmt: skip
    """Finds and embeds every face of every picture.

    Args:
        path: a folder of pictures, or one picture.
        max_side: pictures with a longer side in pixels are shrunk to it first.
        main_only: whether each picture is said to show one person: one face, looked for harder.

    Raises:
        InputError: no picture there.
    """
    folder, names = list_pictures(path)
    dataset = FacesDataset(folder, names, aligner, max_side, main_only)
    loader = DataLoader(dataset, batch_size=None, num_workers=min(num_workers, len(names)))
    extractor = extractor.to(device)
    files: list[str] = []
    boxes: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    embeddings, rejected = [np.zeros((0, extractor.embedding_dim), np.float32)], {}
    for name, faces in track(loader, console=notes(), description="pictures", total=len(names), transient=True):
        if isinstance(faces, str):
            rejected[name] = faces
            continue
        images = torch.from_numpy(np.stack([face.crop_SSC for face in faces])).to(device)
        found = extractor.embed_images(images).float().cpu().numpy()
        usable = np.isfinite(found).all(axis=1) & found.any(axis=1)
        if not usable.any():
            rejected[name] = "embedding is not finite, or all zero"
        for place in np.flatnonzero(usable):
            files.append(name)
            boxes.append(faces[place].box)
            if len(crops) < keep_crops:
                crops.append(faces[place].crop_SSC)
        embeddings.append(found[usable])
    boxes_F4 = np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)
    return Probes(files, boxes_F4, np.concatenate(embeddings), crops, rejected)
