# SPDX-License-Identifier: MIT
"""Keys that several commands share; each command's own keys are in a file `config.py` beside its parts.

A group (data, loss, ...) is `Any` here: a wrong argument fails when `_target_` is built, before anything is written.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class SplitConfig:
    """Which images train, validate and test."""

    max_test_images: int | None = 5  # of an identity's 20 % test share, keep at most so many; None keeps all
    max_test_probes: int | None = None  # of all test images together keep at most so many, drawn; None keeps all
    copies_together: bool = True  # augmented copies stay in training, or on the side of their original
    held_out: float = 0.0  # share of the identities kept out as unknown persons


@dataclass
class RunConfig:
    """Keys of every command that writes a run."""

    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the command, data and settings
    runs_dir: str = "runs"  # where run folders and generated data lie
    data: Any = MISSING
    logger: Any = MISSING


@dataclass
class TrainingConfig(RunConfig):
    """Keys of every command that trains sub-networks."""

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
    refit: str | None = None  # train_val: train again on training and validation images, with what was chosen before
    metrics: list[str] = field(default_factory=list)  # further metrics, names of configs/metric/*.yaml
