# SPDX-License-Identifier: MIT
"""Add people to an Identifier, or take them out: python -m experiments.enrol identifier=DIR images=DIR out=DIR"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class EnrolConfig:
    """experiments.enrol"""

    identifier: str = MISSING  # Identifier folder
    embeddings: str | None = None  # EmbeddingSet with the people to add
    images: str | None = None  # folder with a sub-folder of pictures per person to add
    identities: Any = None  # names to add; None takes all of the set or folder
    remove: Any = None  # name or names to take out
    allow: list[str] = field(default_factory=list)  # packages of your own whose routers, decisions, ... are imported
    move: Any = None  # picture or pictures of the training data, as in files.txt, that belong to another person
    to: str | None = None  # that person, enrolled or new
    out: str | None = None  # the Identifier folder to make
    overwrite: bool = False  # without out=: whether the identifier itself may be replaced
    test: bool = True  # whether a fifth of the pictures of each new person is kept for a test
    retrain: bool = False  # whether the sub-networks of the clusters that changed are trained anew
    extractor: Any = None  # of images; None takes the one of the enrolled pictures
    alignment: Any = None  # of images; None takes the one of the enrolled pictures
    max_side: int = 2048  # pixels; larger pictures are shrunk before a face is looked for
    num_workers: int = 2  # processes that decode and look for faces
    device: str = "cpu"  # where the extractor and the accuracy are computed


main = command(
    "enrol", EnrolConfig, "experiments.enrolment.enrol.enrol", check="experiments.enrolment.request.check_request"
)

if __name__ == "__main__":
    main()
