# SPDX-License-Identifier: MIT
"""A picture of answers: each probe beside the most similar enrolled face of the person it is taken for."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.files import atomic_file

FACE, GAP, LINE = 120, 12, 16  # pixels
COLUMNS = 4
INK, PALE, NAMED, UNKNOWN = "#222222", "#8a8a8a", "#1a6b3c", "#9c4a00"


@dataclass(frozen=True)
class Answer:
    """What one cell of the sheet shows.

    Attributes:
        probe: (S, S, 3) uint8 RGB.
        enrolled: the same of the person's enrolled face, or None.
        known: whether the score reaches the threshold.
        file: of the probe.
    """

    probe: np.ndarray
    enrolled: np.ndarray | None
    name: str
    known: bool
    score: float
    file: str


def draw_sheet(path: Path, answers: list[Answer], caption: str) -> None:
    """Writes a contact sheet as PNG, the answers row by row in the order given."""
    width, height = 2 * FACE + 2 * GAP, FACE + 3 * LINE + 2 * GAP
    columns = min(COLUMNS, max(len(answers), 1))
    rows = -(-len(answers) // columns)
    sheet = Image.new("RGB", (max(columns * width + GAP, 520), rows * height + 3 * GAP + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    plain, bold = _font("DejaVuSans.ttf", 12), _font("DejaVuSans-Bold.ttf", 13)
    draw.text((GAP, GAP), _fitted(caption, plain, sheet.width - 2 * GAP), PALE, plain)
    for place, answer in enumerate(answers):
        row, column = divmod(place, columns)
        left, top = GAP + column * width, 2 * GAP + LINE + row * height
        sheet.paste(_face(answer.probe), (left, top))
        if answer.enrolled is None:
            draw.rectangle((left + FACE, top, left + 2 * FACE - 1, top + FACE - 1), outline="#dddddd")
            draw.text((left + FACE + 20, top + FACE // 2 - 8), "no picture", PALE, plain)
        else:
            sheet.paste(_face(answer.enrolled), (left + FACE, top))
        lines = (
            (answer.name if answer.known else "unknown", bold, NAMED if answer.known else UNKNOWN),
            (f"score {answer.score:.3f}" + ("" if answer.known else f", nearest {answer.name}"), plain, INK),
            (answer.file, plain, PALE),
        )
        for number, (text, font, colour) in enumerate(lines):
            draw.text((left, top + FACE + 4 + number * LINE), _fitted(text, font, 2 * FACE), colour, font)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")


def _face(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((FACE, FACE), Image.Resampling.LANCZOS)


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's own fonts: known to be there, and with more alphabets than Pillow's.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
