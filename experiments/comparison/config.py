# SPDX-License-Identifier: MIT
"""Keys of experiments.compare and experiments.train."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.command_line.schema import TrainingConfig


@dataclass
class CompareConfig(TrainingConfig):
    """experiments.compare"""

    n_identities: Any = None  # N, or a list of N; None takes all the data set has
    n_subnets: Any = "auto"  # m, a list of m (one per N), or auto: N / 2000, at least 2
    scenarios: Any = MISSING  # rows: names of configs/scenario and configs/baseline, or overrides of a scenario
    seeds: Any = 3  # a number of repetitions, or a list of seeds
    evaluate: str = "test"  # images that results are computed on; validation: to choose settings without test images


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
    enrol_held_out: bool = True  # whether people of split.held_out are enrolled after the threshold is set
    out: str | None = None  # the Identifier folder; None writes <run folder>/identifier
    overwrite: bool = False  # whether an Identifier in that place is replaced
