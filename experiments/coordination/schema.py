# SPDX-License-Identifier: MIT
"""The keys of the commands' configurations. Hydra refuses any other, on the command line and in files.

A group (data, loss, ...) is `Any` here and closed by its `_target_`: a wrong argument fails when the object is built,
which is before anything is written.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.picture_identification.config import PicturesConfig


@dataclass
class SplitConfig:
    """Which images train, validate and test."""

    max_test_images: int | None = 5  # of an identity's 20 % test share, keep at most so many; None keeps all
    max_test_probes: int | None = None  # of all test images together keep at most so many, drawn; None keeps all
    copies_together: bool = True  # augmented copies stay in training, or on the side of their original
    held_out: float = 0.0  # share of the identities kept out as unknown persons


@dataclass
class RunConfig:
    """What every command that writes a run understands."""

    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the command, data and settings
    runs_dir: str = "runs"  # where run folders and generated data lie
    data: Any = MISSING
    logger: Any = MISSING


@dataclass
class TrainingConfig(RunConfig):
    """What every command that trains sub-networks understands."""

    split: SplitConfig = field(default_factory=SplitConfig)
    partitioner: Any = MISSING
    loss: Any = MISSING
    init: Any = MISSING
    optimizer: Any = MISSING
    active_classes: Any = MISSING
    head: Any = MISSING
    scheduler: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)  # names of configs/callbacks, [early_stopping,ema]
    trainer: dict[str, Any] = field(default_factory=dict)  # keys of configs/trainer, or any of Lightning's Trainer
    launcher: Any = MISSING
    metrics: list[str] = field(default_factory=list)  # further metrics, names of configs/metric/*.yaml


@dataclass
class CompareConfig(TrainingConfig):
    """experiments.compare"""

    n_identities: Any = None  # N, or a list of N; None takes all the data set has
    n_subnets: Any = "auto"  # m, a list of m (one per N), or auto: N / 2000, at least 2
    scenarios: Any = MISSING  # rows: names of configs/scenario and configs/baseline, or overrides of a scenario
    seeds: Any = 3  # a number of repetitions, or a list of seeds


@dataclass
class ScenarioConfig:
    """Which scenario is trained."""

    name: str = "clustered_nearest"  # written scenario=NAME; a row as in scenarios= of experiments.compare


@dataclass
class TrainConfig(TrainingConfig):
    """experiments.train"""

    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)  # scenario=NAME sets its name
    run: str | None = None  # folder of a finished comparison: its settings, data and sub-networks, nothing is trained
    n_identities: Any = None  # N; None takes all, or the only N of run
    n_subnets: Any = "auto"  # m; auto: N / 2000, at least 2, or the only m of run
    seed: int = 0
    index: Any = MISSING  # how the nearest class means are found
    fpir: float = 0.01  # false-positive identification rate at which `unknown` is decided; needs split.held_out > 0
    out: str | None = None  # the Identifier folder; None writes <run folder>/identifier


@dataclass
class IdentifyConfig(PicturesConfig):
    """experiments.identify"""

    identifier: str = MISSING  # Identifier folder
    embeddings: str | None = None  # an .npy file of embeddings, or an EmbeddingSet folder
    out: str = "identities.csv"  # CSV to write
    threshold: float | None = None  # scores below become unknown; None takes the identifier's own
    index: Any = None  # how the nearest class means are found; None takes the identifier's own
    device: str = "cpu"  # where to compute
    overwrite: bool = False  # whether an existing `out` may be replaced


@dataclass
class ExportConfig:
    """experiments.export"""

    identifier: str = MISSING  # Identifier folder
    out: str = MISSING  # ONNX file to write
    overwrite: bool = False  # whether an existing `out` may be replaced
