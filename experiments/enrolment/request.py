# SPDX-License-Identifier: MIT
"""What a command of experiments.enrol asks for, seen without heavy imports."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError


def check_request(cfg: DictConfig, opened: EmbeddingSet | None = None) -> None:
    """Refuses, with an `InputError`, half a request, and a folder that must stay."""
    as_names(cfg.remove, "remove")
    if (as_names(cfg.move, "move") is None) != (cfg.to is None):
        raise InputError(f"move={cfg.move} with to={cfg.to}", "a picture, and the name of a person", "give both")
    if as_names(cfg.identities, "identities") is not None and cfg.embeddings is None and cfg.images is None:
        raise InputError("identities= alone", "embeddings= or images= beside it", "say where the people are")
    if (target := target_of(cfg)).exists() and not cfg.overwrite:
        raise InputError(f"{target}, which exists", "a new folder", "choose another out=, or say overwrite=true")


def target_of(cfg: DictConfig) -> Path:
    """The folder to write."""
    return Path(cfg.out if cfg.out is not None else cfg.identifier).expanduser()


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
