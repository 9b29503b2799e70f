# SPDX-License-Identifier: MIT
"""Keys of experiments.enrol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from datamodules.errors import InputError


@dataclass
class EnrolConfig:
    """experiments.enrol"""

    identifier: str = MISSING  # Identifier folder
    embeddings: str | None = None  # EmbeddingSet with the people to add
    images: str | None = None  # folder with a sub-folder of pictures per person to add
    identities: Any = None  # names to add; None takes all of the set or folder
    remove: Any = None  # name or names to take out
    out: str | None = None  # the Identifier folder to make
    overwrite: bool = False  # without out=: whether the identifier itself may be replaced
    test: bool = True  # whether a fifth of the pictures of each new person is kept for a test
    retrain: bool = False  # whether the sub-networks of the clusters that changed are trained anew
    extractor: Any = None  # of images; None takes the one of the enrolled pictures
    alignment: Any = None  # of images; None takes the one of the enrolled pictures
    max_side: int = 2048  # pixels; larger pictures are shrunk before a face is looked for
    num_workers: int = 2  # processes that decode and look for faces
    device: str = "cpu"  # where the extractor and the accuracy are computed


def check_request(cfg: DictConfig) -> tuple[list[str], Path]:
    """Refuses what contradicts itself, before anything is read.

    Returns:
        Names of the people to take out, and the folder to write.

    Raises:
        InputError: nothing to do, two sources of people, or a folder that may not be replaced.
    """
    leaving = as_names(cfg.remove, "remove") or []
    if cfg.embeddings is not None and cfg.images is not None:
        raise InputError("both embeddings= and images=", "one of them", "add the people in two steps")
    adding = cfg.embeddings is not None or cfg.images is not None
    if not adding and not leaving:
        raise InputError("nobody to add or to remove", "embeddings=, images= or remove=", "name what shall change")
    if as_names(cfg.identities, "identities") is not None and not adding:
        raise InputError("identities= alone", "embeddings= or images= beside it", "say where the people are")
    target = Path(cfg.out if cfg.out is not None else cfg.identifier).expanduser()
    if target.exists() and not cfg.overwrite:
        raise InputError(f"{target}, which exists", "a new folder", "choose another out=, or say overwrite=true")
    return leaving, target


def as_names(value: Any, key: str) -> list[str] | None:
    """One name or a list of names as a list; None stays None.

    Raises:
        InputError: an empty list, a name twice, or anything but names.
    """
    if value is None:
        return None
    names = list(value) if OmegaConf.is_list(value) or isinstance(value, (list, tuple)) else [value]
    if not names or any(isinstance(name, bool) or not isinstance(name, (str, int)) for name in names):
        raise InputError(f"{key} = {value}", "a name or a list of names", f"write {key}=[anna,bert]")
    names = [str(name) for name in names]  # a person may be called 17
    if len(set(names)) < len(names):
        raise InputError(f"{key} = {value}", "each name once", "leave out the repetition")
    return names
