# SPDX-License-Identifier: MIT
"""Keys of experiments.identify that concern pictures."""

from dataclasses import dataclass
from typing import Any


@dataclass
class PicturesConfig:
    """What to look at, how, and what to write beside the CSV."""

    images: Any = None  # a folder of pictures with all folders below it, or one picture
    faces: str = "all"  # of each picture; main: each shows one person, who is looked for harder
    gallery: str | None = None  # EmbeddingSet of the enrolled; None takes the one the identifier was trained on
    extractor: Any = None  # None takes the one of the enrolled pictures
    alignment: Any = None  # None takes the one of the enrolled pictures
    sheet: str | None = None  # contact sheet, a PNG; None writes `out` with that suffix
    sheet_faces: int = 60  # how many faces the sheet shows
    max_side: int = 4096  # pixels; larger pictures are shrunk before faces are looked for
    num_workers: int = 2  # processes that decode and look for faces
