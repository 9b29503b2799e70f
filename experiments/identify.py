# SPDX-License-Identifier: MIT
"""Name the people behind embeddings, or in pictures."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class IdentifyConfig:
    """experiments.identify"""

    identifier: str = MISSING  # Identifier folder
    embeddings: str | None = None  # an .npy file of embeddings, or an EmbeddingSet folder
    images: str | None = None  # a folder of pictures with all folders below it, or one picture
    faces: str = "all"  # of each picture; main: each shows one person, who is looked for harder
    gallery: str | None = None  # EmbeddingSet of the enrolled; None takes the one the identifier was trained on
    extractor: Any = None  # None takes the one of the enrolled pictures
    alignment: Any = None  # None takes the one of the enrolled pictures
    out: str = "identities.csv"  # CSV to write
    sheet: str | None = None  # contact sheet, a PNG; None writes `out` with that suffix
    sheet_faces: int = 60  # how many faces the sheet shows
    allow: list[str] = field(default_factory=list)  # packages of your own whose routers, decisions, ... are imported
    threshold: float | None = None  # scores below become unknown; None takes the identifier's own
    unknown: str | None = None  # the word for people who are not enrolled; None takes the identifier's own
    index: Any = None  # how the nearest class means are found; None takes the identifier's own
    device: str = "cpu"  # where to compute
    max_side: int = 4096  # pixels; larger pictures are shrunk before faces are looked for
    num_workers: int = 2  # processes that decode and look for faces
    overwrite: bool = False  # whether an existing `out` may be replaced


main = command("identify", IdentifyConfig, "experiments.picture_identification.identify.identify")

if __name__ == "__main__":
    main()
