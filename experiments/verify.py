# SPDX-License-Identifier: MIT
"""Verification: python -m experiments.verify data.path=SET pairs=FILE, or source=bin source.path=FILE extractor=NAME"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from experiments.command_line.command import command
from experiments.extraction.config import DevicesConfig, ExtractionConfig


@dataclass
class PairsExtractionConfig(ExtractionConfig):
    """As of experiments.prepare, in full precision."""

    dtype: str = "float32"  # or float16: as which embeddings are kept


@dataclass
class VerifyConfig:
    """experiments.verify"""

    data: Any = MISSING
    pairs: str = MISSING  # file in the format of LFW's pairs.txt; images are those of the set's files.txt
    source: Any = None  # bin: a file of pictures with their pairs, in place of data and pairs
    extractor: Any = MISSING  # of the pictures of the source
    alignment: Any = None  # None: nothing, the pictures are aligned
    extraction: PairsExtractionConfig = field(default_factory=PairsExtractionConfig)
    trainer: DevicesConfig = field(default_factory=DevicesConfig)
    fars: list[float] = field(default_factory=lambda: [1e-3])  # false accept rates at which VAL is wanted
    logger: Any = MISSING
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the settings
    runs_dir: str = "runs"  # where run folders lie

    @staticmethod
    def unneeded(cfg: DictConfig) -> tuple[tuple[str, ...], str]:
        """Keys of no use beside the others, and why."""
        if cfg.source is None:
            return ("extractor", "alignment"), "without source= the data are embeddings already"
        return ("data.path", "pairs"), "source= has its own pictures and pairs"


main = command("verify", VerifyConfig, "experiments.verification.verify.verify_set")

if __name__ == "__main__":
    main()
