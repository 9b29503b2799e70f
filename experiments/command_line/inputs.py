# SPDX-License-Identifier: MIT
"""Looks at the inputs that a configuration names, before anything heavy is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError, nearest
from datamodules.partitioners.centre_losses import LOSSES
from experiments.command_line.choices import files, load_node

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
# Lists of files of a group; the losses of k-means have none.
NAMES = {"metrics": "metric", "miners": "miner", "methods": "label_method", "losses": None}
# Keys with a few values, the default first.
WORDS = {
    "refit": (None, "train_val"), "evaluate": ("test", "validation"), "faces": ("all", "main"),
    "format": ("onnx", "huggingface", "faiss"),
}  # fmt: skip


def check_inputs(cfg: DictConfig) -> EmbeddingSet | None:
    """The EmbeddingSet of `data.path`, if the data are one; its values are unchecked.

    Refuses, with an `InputError`, an input that is not named, not there or cannot be opened, and an output that is
    there.
    """
    data, opened = cfg.get("data"), None
    named = isinstance(data, DictConfig) and data.get("_target_") == OPEN and not OmegaConf.is_missing(data, "path")
    if named and not cfg.get("run"):
        opened = EmbeddingSet.open(str(data.path), check_values=False)
    if "embeddings" in cfg:  # of identify, enrol and export
        keys = [key for key in ("embeddings", "images", "remove", "move") if key in cfg]
        keys = keys if "images" in keys else ["identifier", *keys]
        given = [key for key in keys if cfg[key] is not None]
        if given[:2] == keys[:2]:
            raise InputError(f"both {'= and '.join(given[:2])}=", "one of them", "give them in two commands")
        if not given:
            raise InputError(f"none of {'=, '.join(keys)}=", "one of them", "add one, see --help")
    for key, words in WORDS.items():
        if (value := cfg.get(key, words[0])) not in words:
            known = [word or "null" for word in words]
            raise InputError(f"{key}={value}", f"one of {', '.join(known)}", nearest(str(value), known, f"set {key}"))
    for key, group in NAMES.items():
        if key in cfg:
            names, known = list(cfg[key]), files(group) if group else list(LOSSES)
            for name in names if group else ():
                load_node(group, name)
            if len(set(names)) < len(names) or not set(names) <= set(known) or (not names and key != "metrics"):
                raise InputError(f"{key} = {names}", f"some of {', '.join(known)}, each once", f"set {key}")
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
