# SPDX-License-Identifier: MIT
"""What experiments.enrol is asked to do; imports nothing heavy."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError


def check_request(cfg: DictConfig) -> tuple[list[str], Path]:
    """Names of the people to remove, and the folder to write.

    Refuses, before anything is read, a request without people or with two sources, and a folder that must stay.
    """
    leaving = as_names(cfg.remove, "remove") or []
    if cfg.embeddings is not None and cfg.images is not None:
        raise InputError("both embeddings= and images=", "one of them", "add the people in two steps")
    adding = cfg.embeddings is not None or cfg.images is not None
    if not adding and not leaving and cfg.move is None:
        raise InputError(
            "nobody to add or to remove", "embeddings=, images=, remove= or move=", "name what shall change"
        )
    if (cfg.move is None) != (cfg.to is None):
        raise InputError(f"move={cfg.move} with to={cfg.to}", "a picture, and the name of a person", "give both")
    if as_names(cfg.identities, "identities") is not None and not adding:
        raise InputError("identities= alone", "embeddings= or images= beside it", "say where the people are")
    target = Path(cfg.out if cfg.out is not None else cfg.identifier).expanduser()
    if target.exists() and not cfg.overwrite:
        raise InputError(f"{target}, which exists", "a new folder", "choose another out=, or say overwrite=true")
    return leaving, target


def as_names(value: Any, key: str) -> list[str] | None:
    """One name or a list of names as a list; None stays None; an empty list, or anything but names, is refused."""
    if value is None:
        return None
    names = list(value) if OmegaConf.is_list(value) or isinstance(value, (list, tuple)) else [value]
    if not names or any(isinstance(name, bool) or not isinstance(name, (str, int)) for name in names):
        raise InputError(f"{key} = {value}", "a name or a list of names", f"write {key}=[anna,bert]")
    names = [str(name) for name in names]  # a person may be called 17
    if len(set(names)) < len(names):
        raise InputError(f"{key} = {value}", "each name once", "leave out the repetition")
    return names
