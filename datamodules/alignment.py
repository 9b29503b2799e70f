# SPDX-License-Identifier: MIT
"""From a picture to square face crops.

Axes: H, W height and width of a picture, S side of a crop in pixels. Pictures are (H, W, 3) and crops (S, S, 3) uint8
RGB. Points are (x, y) in pixels; (0, 0) is the centre of the upper left pixel.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from facenet_pytorch import MTCNN, extract_face
from PIL import Image

from datamodules.errors import InputError
from datamodules.images import RejectedImage

# Left eye, right eye, nose, left and right corner of the mouth (as seen) in the 112 x 112 crops of ArcFace.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112


@dataclass(frozen=True)
class Face:
    """A face found in a picture."""

    box: np.ndarray  # (4,) float32: left, top, right, bottom in pixels of the picture
    score: float  # the detector's confidence, on its own scale
    crop_SSC: np.ndarray


class Aligner(ABC):
    """Base of all ways to crop.

    Args:
        image_size: side S of the crops in pixels.
    """

    def __init__(self, image_size: int):
        if image_size < 1:
            raise InputError(f"image_size = {image_size}", "at least 1 pixel", "give the extractor's")
        self.image_size = int(image_size)

    @abstractmethod
    def faces(self, picture_HWC: np.ndarray) -> list[Face]:
        """All faces of a picture, in the detector's order."""

    def main_face(self, picture_HWC: np.ndarray) -> Face:
        """The face of a picture of one person: the greatest box area minus twice the squared distance from its centre
        to the picture's, as in davidsandberg/facenet (src/align/align_dataset_mtcnn.py).

        Raises:
            RejectedImage: no face found.
        """
        faces = self.faces(picture_HWC)
        if not faces:
            raise RejectedImage("no face found")
        boxes = np.stack([face.box for face in faces]).astype(np.float64)
        centre = np.array([picture_HWC.shape[1], picture_HWC.shape[0]]) / 2
        offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - centre
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return faces[int(np.argmax(area - 2 * (offset**2).sum(axis=1)))]

    def describe(self) -> str:
        """One line that differs whenever the crops would."""
        facts = ", ".join(f"{key}={value}" for key, value in sorted(vars(self).items()) if not key.startswith("_"))
        return f"{type(self).__name__}({facts})"


class Resize(Aligner):
    """No detection: the centre square of the picture, for aligned faces and for other pictures.

    Args:
        image_size: side S of the crops in pixels.
        fraction: side of the square as a share of the shorter side, in (0, 1]; 0.875 for ImageNet networks.
    """

    def __init__(self, image_size: int, fraction: float = 1.0):
        super().__init__(image_size)
        if not 0 < fraction <= 1:
            raise InputError(f"fraction = {fraction:g}", "above 0, at most 1", "1 keeps the whole shorter side")
        self.fraction = float(fraction)

    def faces(self, picture_HWC: np.ndarray) -> list[Face]:
        height, width = picture_HWC.shape[:2]
        side = min(height, width) * self.fraction
        left, top = (width - side) / 2, (height - side) / 2
        box = np.array([left, top, left + side, top + side])
        if (height, width) == (self.image_size, self.image_size) and self.fraction == 1:
            return [Face(box.astype(np.float32), 1.0, picture_HWC)]
        return [Face(box.astype(np.float32), 1.0, crop_box(picture_HWC, box, self.image_size))]


class MTCNNAligner(Aligner):
    """Faces by MTCNN (Zhang et al. 2016), with the weights in the package facenet-pytorch.

    Args:
        image_size: side S of the crops in pixels.
        crop: "template": a similarity transform brings five landmarks onto the ArcFace template; "box": the detector's
            box with a margin, stretched to a square, as facenet-pytorch's networks expect.
        margin: share of the crop's side around the box (0.2: 32 of 160 pixels).
        min_face: smallest face to search for, in pixels.
        min_side: pictures with a shorter side below this many pixels are enlarged to it for the search.
        thresholds: of the three stages, each in (0, 1).
    """

    def __init__(
        self, image_size: int = ARCFACE_SIZE, crop: str = "template", margin: float = 0.2, min_face: int = 20,
        min_side: int = 160, thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    ):  # fmt: skip
        super().__init__(image_size)
        if crop not in ("template", "box"):
            raise InputError(f"alignment.crop = {crop!r}", "template or box", "choose one of them")
        if not 0 <= margin < 1:
            raise InputError(f"alignment.margin = {margin:g}", "at least 0, below 1", "0.2 is facenet-pytorch's usual")
        self.crop, self.margin = crop, float(margin)
        self.min_face, self.min_side = int(min_face), int(min_side)
        self.thresholds = tuple(float(value) for value in thresholds)
        self._detector: MTCNN | None = None

    def __getstate__(self) -> dict:
        return {**vars(self), "_detector": None}  # each worker process builds its own

    def detect(self, picture_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(F, 4) boxes, (F,) confidences, (F, 5, 2) landmarks in pixels of the picture; the largest face is first."""
        if self._detector is None:
            self._detector = MTCNN(keep_all=True, min_face_size=self.min_face, thresholds=list(self.thresholds))
        image = Image.fromarray(picture_HWC)
        if (zoom := max(1.0, self.min_side / min(image.size))) > 1:
            image = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.BICUBIC)
        try:
            boxes, scores, points = self._detector.detect(image, landmarks=True)
        except (RuntimeError, IndexError, ValueError):
            boxes = None  # raised for candidates outside of the picture, and for some empty stages
        if boxes is None:
            return np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
        boxes = boxes.astype(np.float64) / zoom
        last = np.array(picture_HWC.shape[1::-1]) - 1
        inside = (boxes[:, 2:] >= 1).all(axis=1) & (boxes[:, :2] < last).all(axis=1)
        return boxes[inside], scores[inside].astype(np.float64), points[inside].astype(np.float64) / zoom

    def faces(self, picture_HWC: np.ndarray) -> list[Face]:
        found = []
        for box, score, points in zip(*self.detect(picture_HWC), strict=True):
            if self.crop == "template":
                crop = crop_to_template(picture_HWC, points, self.image_size)
            else:
                margin = round(self.margin * self.image_size)
                crop_CSS = extract_face(Image.fromarray(picture_HWC), box, self.image_size, margin)
                crop = crop_CSS.byte().permute(1, 2, 0).numpy()
            found.append(Face(box.astype(np.float32), float(score), crop))
        return found


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix M, a rotation, uniform scale and shift, with least squares of target - M @ (x, y, 1).

    `source` and `target` are (P, 2) points; raises `RejectedImage` if the source points coincide.

    Umeyama (1991), equations 40 to 42, in two dimensions: for points as complex numbers and w = a z + b,
    a = sum conj(z') w' / sum |z'|^2 over centred points.
    """
    z, w = (np.asarray(points, np.float64) @ np.array([1, 1j]) for points in (source, target))
    centred = z - z.mean()
    spread = (np.abs(centred) ** 2).sum()
    if not spread > 1e-12:
        raise RejectedImage("landmarks of the face coincide")
    a = (centred.conj() * (w - w.mean())).sum() / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop_to_template(picture_HWC: np.ndarray, points: np.ndarray, image_size: int = ARCFACE_SIZE) -> np.ndarray:
    """Warps a face so that its five landmarks match the ArcFace template; black outside of the picture.

    Args:
        points: (5, 2) left eye, right eye, nose, left and right corner of the mouth.
        image_size: side S of the crop in pixels.
    """
    # Sizes scale about the picture's corner, half a pixel before the first pixel's centre.
    target = (ARCFACE_TEMPLATE + 0.5) * (image_size / ARCFACE_SIZE) - 0.5
    matrix = similarity_transform(points, target)
    image = Image.fromarray(picture_HWC)
    # Bilinear sampling alone would skip most pixels of a large face.
    factor = max(1, math.floor(1 / math.hypot(matrix[0, 0], matrix[1, 0])))
    if factor > 1:
        image = image.reduce(factor)
        matrix = similarity_transform((np.asarray(points) + 0.5) / factor - 0.5, target)
    full = np.vstack([matrix, [0, 0, 1]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # Pillow counts from the corner
    back = half @ np.linalg.inv(full) @ np.linalg.inv(half)
    size = (image_size, image_size)
    warped = image.transform(size, Image.Transform.AFFINE, back[:2].ravel().tolist(), Image.Resampling.BILINEAR)
    return np.asarray(warped)


def crop_box(picture_HWC: np.ndarray, box: np.ndarray, image_size: int) -> np.ndarray:
    """Cuts out a box and scales it, anti-aliased: (S, S, 3).

    Args:
        box: (4,) left, top, right, bottom in pixels, inside of the picture.
        image_size: side S of the crop in pixels.
    """
    size = (image_size, image_size)
    return np.asarray(Image.fromarray(picture_HWC).resize(size, Image.Resampling.BICUBIC, tuple(box.tolist())))
