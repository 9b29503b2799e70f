# SPDX-License-Identifier: MIT
"""dlib's face recognition ResNet, with weights from a package: nothing is downloaded at run time."""

from __future__ import annotations  # this file is named like the package that it imports

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.alignment import Aligner, Face
from datamodules.errors import InputError, needed_package, one_line
from datamodules.extractors.base import Extractor, existing_file
from datamodules.files import sha256
from datamodules.images import RejectedImage

NETWORK_FILE = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARK_FILE = "shape_predictor_5_face_landmarks.dat"
CHIP_SIZE = 150  # pixels, fixed by the network
CHIP_PADDING = 0.25  # what the network was trained with


class DlibExtractor(Extractor):
    """128-d embeddings; LFW verification 99.38 % as published by dlib's author.

    Args:
        weights: the network's .dat file; None takes that of the package face_recognition_models.
        landmarks, min_side, threshold: see `DlibAligner`.
    """

    def __init__(
        self, weights: str | Path | None = None, landmarks: str | Path | None = None, min_side: int = 276,
        threshold: float = 0.0,
    ):  # fmt: skip
        super().__init__(
            name="dlib-resnet", embedding_dim=128, image_size=CHIP_SIZE, channel_order="RGB", value_range=(0.0, 255.0)
        )
        self.weights = _model_file(weights, NETWORK_FILE)
        self.aligner = DlibAligner(landmarks, min_side=min_side, threshold=threshold)
        self._network = _load(lambda dlib: dlib.face_recognition_model_v1(str(self.weights)), self.weights)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        images = np.ascontiguousarray(x_BCHW.round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy())
        embeddings = np.asarray(self._network.compute_face_descriptor(list(images)), np.float32)
        return torch.from_numpy(embeddings.reshape(-1, self.embedding_dim)).to(x_BCHW.device)

    def default_aligner(self) -> Aligner:
        return self.aligner

    def weights_digest(self) -> str:
        return sha256(self.weights)


class DlibAligner(Aligner):
    """Faces by dlib's HOG detector, turned upright and scaled by five landmarks, as dlib's network expects.

    Args:
        landmarks: the five-landmark predictor's .dat file; None takes that of the package face_recognition_models.
        image_size: side S of the crops in pixels.
        min_side: pictures with a shorter side below this many pixels are enlarged to it; the detector finds faces
            from about 80 pixels on.
        threshold: least score of a detection; dlib's default is 0.
        main_threshold: the same for a picture of one person in which no face reaches `threshold`.
    """

    def __init__(
        self, landmarks: str | Path | None = None, image_size: int = CHIP_SIZE, min_side: int = 276,
        threshold: float = 0.0, main_threshold: float = -0.5,
    ):  # fmt: skip
        super().__init__(image_size)
        self.min_side, self.threshold, self.main_threshold = int(min_side), float(threshold), float(main_threshold)
        self._landmark_file = _model_file(landmarks, LANDMARK_FILE)
        self.landmarks = self._landmark_file.name
        self._models: tuple[Any, Any, Any] | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_models": None}  # built again by each worker process

    def faces(self, picture_HWC: np.ndarray) -> list[Face]:
        return self._found(picture_HWC, self.threshold)

    def main_face(self, picture_HWC: np.ndarray) -> Face:
        try:
            return super().main_face(picture_HWC)
        except RejectedImage:
            if not (found := self._found(picture_HWC, self.main_threshold)):
                raise
            return max(found, key=lambda face: face.score)

    def _found(self, picture_HWC: np.ndarray, threshold: float) -> list[Face]:
        if self._models is None:
            dlib = _dlib()
            predictor = _load(lambda dlib: dlib.shape_predictor(str(self._landmark_file)), self._landmark_file)
            self._models = dlib, dlib.get_frontal_face_detector(), predictor
        dlib, detector, predictor = self._models
        height, width = picture_HWC.shape[:2]
        zoom = max(1.0, self.min_side / min(height, width))
        if zoom > 1:
            size = (math.ceil(width * zoom), math.ceil(height * zoom))
            picture_HWC = np.asarray(Image.fromarray(picture_HWC).resize(size, Image.Resampling.BICUBIC))
        picture_HWC = np.ascontiguousarray(picture_HWC)
        found = []
        for box, score in zip(*detector.run(picture_HWC, 0, threshold)[:2], strict=True):
            chip = dlib.get_face_chip(picture_HWC, predictor(picture_HWC, box), self.image_size, CHIP_PADDING)
            corners = np.array([box.left(), box.top(), box.right() + 1, box.bottom() + 1]) / zoom
            found.append(Face(corners.astype(np.float32), float(score), chip))
        return found


def _dlib():
    with needed_package("dlib", "dlib for this extractor", "pip install 'clusterface[dlib]'"):
        import dlib
    return dlib


def _model_file(path: str | Path | None, name: str) -> Path:
    if path:
        return existing_file(path, f"dlib's {name}")
    # The package itself cannot be imported: it needs a removed part of setuptools.
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / "models" / name).is_file():
            return file
    cure = "pip install 'clusterface[dlib]', or name the file"
    raise InputError(f"no {name}", "the package face_recognition_models", cure)


def _load(make, path: Path):
    try:
        return make(_dlib())
    except RuntimeError as error:
        got = f"{path}, unreadable ({one_line(error)})"
        raise InputError(got, f"dlib's {path.name}", "fetch the file again") from None
