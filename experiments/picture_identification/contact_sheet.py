# SPDX-License-Identifier: MIT
"""A picture of answers: each probe beside the most similar enrolled face of the person it is taken for.

Axes: D embedding dimension, S side of a crop.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from hydra.utils import instantiate
from PIL import Image, ImageDraw, ImageFont

from datamodules.alignment import Aligner
from datamodules.embedding_set import UNKNOWN, EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import atomic_file
from datamodules.images import RejectedImage, decode
from datamodules.sources.base import is_copy, original_of
from experiments.extraction.config import from_recipe
from experiments.reporting.canvas import short

logger = logging.getLogger(__name__)
FACE, GAP, LINE = 120, 12, 16  # pixels
WIDTH, HEIGHT, COLUMNS = 2 * (FACE + GAP), FACE + 3 * LINE + 2 * GAP, 4  # of an answer, in pixels; answers side by side
INK, PALE, NAMED, UNNAMED = "#222222", "#8a8a8a", "#1a6b3c", "#9c4a00"


@dataclass(frozen=True)
class Answer:
    """One probe on the sheet."""

    probe: np.ndarray  # (S, S, 3) uint8 RGB
    enrolled: np.ndarray | None  # (S, S, 3) uint8 RGB face of the person, or None
    name: str
    known: bool  # whether the score reaches the threshold
    score: float
    file: str


def draw_sheet(path: Path, answers: list[Answer], caption: str, unknown: str = UNKNOWN) -> None:
    """Writes a contact sheet as PNG, the answers row by row in the order given."""
    columns = min(COLUMNS, max(len(answers), 1))
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (max(columns * WIDTH + GAP, 520), rows * HEIGHT + 3 * GAP + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    # The fonts of matplotlib are always installed, and have more alphabets than those of Pillow.
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    plain, bold = (ImageFont.truetype(str(fonts / f"DejaVuSans{kind}.ttf"), 12) for kind in ("", "-Bold"))
    draw.text((GAP, GAP), caption, PALE, plain)
    for place, answer in enumerate(answers):
        left, top = GAP + place % columns * WIDTH, 2 * GAP + LINE + place // columns * HEIGHT
        for shift, pixels in ((0, answer.probe), (FACE, answer.enrolled)):
            if pixels is not None:
                face = Image.fromarray(pixels).resize((FACE, FACE), Image.Resampling.LANCZOS)
                sheet.paste(face, (left + shift, top))
        if answer.enrolled is None:
            draw.text((left + FACE + 20, top + FACE // 2 - 8), "no picture", PALE, plain)
        lines = (
            (answer.name if answer.known else unknown, bold, NAMED if answer.known else UNNAMED),
            (f"score {answer.score:.3f}" + ("" if answer.known else f", nearest {answer.name}"), plain, INK),
            (answer.file, plain, PALE),
        )
        for number, (text, font, colour) in enumerate(lines):
            draw.text((left, top + FACE + 4 + number * LINE), short(text, 32), colour, font)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


class Gallery:
    """The images that an EmbeddingSet was made from; it needs a files.txt and a recipe in its meta.json."""

    def __init__(self, embedding_set: EmbeddingSet, aligner: Aligner):
        self.embedding_set, self.aligner, self._source = embedding_set, aligner, None
        self._label_of = {name: label for label, name in enumerate(embedding_set.identities)}
        try:
            if (node := from_recipe(embedding_set.meta.get("recipe", {}), "source")) is not None:
                self._source = instantiate(node)
        except InputError as error:
            logger.warning("enrolled pictures cannot be shown: %s", error)

    def best_face(self, identity: str, embedding_D: np.ndarray) -> np.ndarray | None:
        """The enrolled face of a person that is most like a probe, (S, S, 3) uint8 RGB; None if it is missing."""
        label = self._label_of.get(identity)
        if label is None or self._source is None:
            return None
        start, end = np.searchsorted(self.embedding_set.labels, [label, label + 1])
        rows = np.asarray(self.embedding_set.embeddings[start:end], np.float32)
        cosine = rows @ embedding_D / np.linalg.norm(rows, axis=1)
        originals = np.array([not is_copy(name) for name in self.embedding_set.files[start:end]])
        name = self.embedding_set.files[start + int(np.argmax(np.where(originals, cosine, -np.inf)))]
        try:
            return self.aligner.main_face(decode(self._source.read(original_of(name))).pixels_HWC).crop_SSC
        except RejectedImage as rejection:
            logger.warning("%s cannot be shown: %s", name, rejection.reason)
            return None
