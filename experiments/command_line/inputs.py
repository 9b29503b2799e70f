# SPDX-License-Identifier: MIT
"""Looks at the inputs that a configuration names, before anything heavy is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError

OPEN = "datamodules.embedding_set.EmbeddingSet.open"
# Keys whose folder or file must be there, what it is, and what is inside, whichever of the files.
THERE = {
    "identifier": ("an Identifier folder", "identifier.json config.json"),
    "run": ("the folder of a finished comparison", "config.yaml"),
    "gallery": ("an EmbeddingSet folder", "meta.json"),
    "embeddings": ("an .npy file or an EmbeddingSet folder", ""),
    "images": ("a folder of pictures, or a picture", ""),
    "pairs": ("a file in the format of LFW's pairs.txt", ""),
    "data.path": ("a file NAME.arff with its NAME.xml, or NAME.mat", ""),
    "source.root": ("a folder of pictures or record files", ""),
}


def check_inputs(cfg: DictConfig) -> EmbeddingSet | None:
    """The EmbeddingSet of `data.path`, if the data are one; its values are unchecked.

    Refuses, with an `InputError`, an input that is not there or cannot be opened, and an output that is there.
    """
    data, opened = cfg.get("data"), None
    named = isinstance(data, DictConfig) and data.get("_target_") == OPEN and not OmegaConf.is_missing(data, "path")
    if named and not cfg.get("run"):
        opened = EmbeddingSet.open(str(data.path), check_values=False)
    if cfg.get("embeddings") is not None and cfg.get("images") is not None:
        raise InputError("both embeddings= and images=", "one of them", "give them in two commands")
    for key, (expected, inside) in THERE.items():
        value = OmegaConf.select(cfg, key)
        for one in value if OmegaConf.is_list(value) else [] if value is None else [value]:
            path = Path(str(one)).expanduser()
            if not path.exists():
                what = "file" if "file" in expected.partition("folder")[0] else "folder"
                raise InputError(f"no {what} {path}", expected, f"check {key}=")
            if inside and not any((path / name).is_file() for name in inside.split()):
                raise InputError(f"{path} without {inside.split()[0]}", expected, f"check {key}=")
    if cfg.get("out") and not cfg.get("overwrite", True) and Path(cfg.out).expanduser().exists():
        raise InputError(f"{cfg.out}, which exists", "a new place", "choose another out=, or say overwrite=true")
    return opened
