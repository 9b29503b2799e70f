# SPDX-License-Identifier: MIT
"""Triplet training of one embedding: python -m experiments.train_facenet data=embedding_set data.path=SET"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.command_line.command import command


@dataclass
class BatchConfig:
    """Identity-balanced batches; FaceNet has about 1,800 images with about 40 of each identity."""

    identities: int = 45  # of a batch at most
    images: int = 40  # of an identity at most; all if it has fewer
    num_workers: int = 0  # processes that load images


@dataclass
class EvaluationConfig:
    """Measurements on the held-out identities."""

    held_out: float = 0.2  # share of the identities that are not trained with
    knn: int = 1  # neighbours that vote, leaving the probe itself out
    folds: int = 10  # of verification pairs, no identity in two of them
    pairs: int = 300  # of one person, and as many of two, per fold
    fars: list[float] = field(default_factory=lambda: [1e-3])  # false accept rates at which VAL is wanted


@dataclass
class TrainFacenetConfig:
    """experiments.train_facenet"""

    data: Any = None  # an EmbeddingSet, for network=projection
    source: Any = None  # images, for the other networks
    alignment: Any = None  # of the images; None: as they are for aligned sources, else MTCNN's boxes
    network: Any = MISSING
    optimizer: Any = MISSING
    partitioner: Any = MISSING
    logger: Any = MISSING
    miners: list[str] = field(default_factory=lambda: ["batch_all", "batch_hard", "semi_hard"])
    alpha: float = 0.2  # margin, in units of squared distance
    batch: BatchConfig = field(default_factory=BatchConfig)
    trainer: dict[str, Any] = field(default_factory=dict)  # keys of configs/trainer, or any of Lightning's Trainer
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0  # of the held-out identities, initial weights, batches and pairs
    name: str | None = None  # run folder <runs_dir>/<name>; None makes one of the settings
    runs_dir: str = "runs"  # where run folders lie


main = command("train_facenet", TrainFacenetConfig, "experiments.facenet.compare_miners.compare_miners")

if __name__ == "__main__":
    main()
