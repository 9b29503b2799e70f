# SPDX-License-Identifier: MIT
"""The keys of experiments.multilabel, and the settings of each data set."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import InputError
from datamodules.multilabel import MultiLabelSet, open_multilabel, split_rows
from experiments.command_line.choices import files, load_node


@dataclass
class Settings:
    """How the networks of a data set are made and trained: a file of `configs/multilabel`."""

    label_clusters: int = 3  # m, networks
    feature_clusters: int | None = None  # K, inputs of every network; None keeps every feature
    log_counts: bool | None = None  # log(1 + x) first; None: where all features are whole numbers from 0
    hidden: int = 256  # units of a hidden layer
    hidden_layers: int = 1
    dropout: float = 0.5  # share of the hidden units that a step leaves out
    epochs: int = 1500  # at most, if patience ends the training earlier
    patience: int | None = 5  # epochs without a lower validation loss; None: all epochs, and their last weights
    batch_size: int | None = 128  # rows of a step; None takes all at once
    learning_rate: float = 0.01  # of Adam
    threshold: float = 0.3  # probabilities from here on are predictions
    published: dict[str, dict[str, float]] = field(default_factory=dict)  # method -> metric (share of 1) in the paper

    def __post_init__(self):
        counts = ("label_clusters", "feature_clusters", "hidden", "hidden_layers", "epochs", "patience", "batch_size")
        others = {"dropout": (0, 0.99), "learning_rate": (1e-9, inf), "threshold": (0, 1)}
        for key, (low, high) in (dict.fromkeys(counts, (1, inf)) | others).items():
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                bounds = f"at least {low}" if high == inf else f"{low} to {high}"
                raise InputError(f"settings.{key} = {value}", bounds, f"correct settings.{key}")


@dataclass
class ChangedSettings:
    """Settings for every data set of the run; `keep` leaves what its file says."""

    file: str | None = None  # name in configs/multilabel; None: that of the data set, or default
    label_clusters: Any = "keep"
    feature_clusters: Any = "keep"
    log_counts: Any = "keep"
    hidden: Any = "keep"
    hidden_layers: Any = "keep"
    dropout: Any = "keep"
    epochs: Any = "keep"
    patience: Any = "keep"
    batch_size: Any = "keep"
    learning_rate: Any = "keep"
    threshold: Any = "keep"


@dataclass
class DataConfig:
    """Where the data sets lie."""

    path: Any = MISSING  # a file NAME.arff or NAME.mat, or a list of them
    xml: str | None = None  # Mulan's list of labels for a single ARFF file; None: NAME.xml beside it


@dataclass
class RowSplitConfig:
    """Shares of the rows; the rest is for training."""

    validation: float = 0.1
    test: float = 0.2


@dataclass
class MultilabelConfig:
    """experiments.multilabel"""

    data: DataConfig = field(default_factory=DataConfig)
    methods: list[str] = MISSING  # names of configs/label_method/*.yaml
    settings: ChangedSettings = field(default_factory=ChangedSettings)
    label_partitioner: Any = MISSING  # clusters of labels
    feature_partitioner: Any = MISSING  # clusters of features
    split: RowSplitConfig = field(default_factory=RowSplitConfig)
    trainer: dict[str, Any] = field(default_factory=dict)  # keys of configs/trainer, or any of Lightning's Trainer
    launcher: Any = MISSING
    logger: Any = MISSING
    seeds: Any = 1  # a number of repetitions, or a list of seeds: of the split, the clusters and the networks
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the settings
    runs_dir: str = "runs"  # where run folders lie


def open_data(cfg: DictConfig) -> list[tuple[MultiLabelSet, Settings]]:
    """Opens the data sets and reads their settings; refuses impossible ones, and two data sets with the same name."""
    paths = [cfg.data.path] if isinstance(cfg.data.path, str) else list(cfg.data.path)
    if not paths or (cfg.data.xml is not None and len(paths) > 1):
        got = f"{len(paths)} files in data.path, data.xml = {cfg.data.xml}"
        raise InputError(got, "at least one file, and data.xml for a single one", "set data.path")
    opened = [open_multilabel(str(path), cfg.data.xml) for path in paths]
    names = [data.name for data in opened]
    if len(set(names)) < len(names):
        raise InputError(f"data sets {', '.join(names)}", "different names", "rename a file")
    for data in opened:
        split_rows(len(data), cfg.split.validation, cfg.split.test)  # only to refuse impossible shares early
    return [(data, settings_of(data, cfg.settings)) for data in opened]


def settings_of(data: MultiLabelSet, changed: DictConfig) -> Settings:
    """The settings in the file of a data set, changed; refuses an unknown file or key, and a value out of range."""
    name = changed.file or (data.name if data.name in files("multilabel") else "default")
    changes = {key: value for key, value in changed.items() if key != "file" and value != "keep"}
    from_file = load_node("multilabel", name)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), from_file, changes)
        settings = Settings(**OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        fault = " ".join(str(error).split())
        raise InputError(f"settings {name} with {fault}", "keys and values of Settings", "correct settings") from None
    for kind, matrix in (("label", data.labels), ("feature", data.features)):
        key, most = f"{kind}_clusters", matrix.shape[1]
        if (getattr(settings, key) or 0) > most:
            got = f"settings.{key} = {getattr(settings, key)} for {most} {kind}s of {data.name}"
            raise InputError(got, f"1 to {most}", "lower it")
    return settings
