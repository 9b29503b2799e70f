# SPDX-License-Identifier: MIT
"""The keys of experiments.verify."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class VerifyConfig:
    """experiments.verify"""

    data: Any = MISSING
    pairs: str = MISSING  # file in the format of LFW's pairs.txt; images are those of the set's files.txt
    fars: list[float] = field(default_factory=lambda: [1e-3])  # false accept rates at which VAL is wanted
    logger: Any = MISSING
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the settings
    runs_dir: str = "runs"  # where run folders lie
