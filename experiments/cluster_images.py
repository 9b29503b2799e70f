# SPDX-License-Identifier: MIT
"""Clustering of image features under different losses: python -m experiments.cluster_images source.root=FOLDER"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from datamodules.partitioners.centre_losses import LOSSES
from experiments.command_line.command import command
from experiments.extraction.config import DevicesConfig, ExtractionConfig


@dataclass
class ClusterImagesConfig:
    """experiments.cluster_images"""

    source: Any = MISSING
    extractor: Any = MISSING
    alignment: Any = None  # None: what the extractor was trained with
    k: int | None = None  # number of clusters; None takes the number of sub-folders
    losses: list[str] = field(default_factory=lambda: list(LOSSES))
    delta: float = 1.345  # length of the two Huber losses, times scale
    sigma: float = 1.0  # kernel width of correntropy, times scale
    epsilon: float = 0.5  # free zone of epsilon_insensitive, times scale
    scale: Any = "std"  # a number, or std: the spread of the features
    n_init: int = 10  # seedings per loss
    max_iter: int = 300  # most assignments per seeding
    seed: int = 0  # of the seedings
    layers: list[str] | None = None  # whose feature maps are drawn; None takes three, from the first to the last
    extraction: ExtractionConfig = field(default_factory=lambda: ExtractionConfig(dtype="float32"))
    trainer: DevicesConfig = field(default_factory=DevicesConfig)
    logger: Any = MISSING
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the settings
    runs_dir: str = "runs"  # where run folders lie


main = command("cluster_images", ClusterImagesConfig, "experiments.image_clustering.compare_losses.compare_losses")

if __name__ == "__main__":
    main()
