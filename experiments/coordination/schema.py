# SPDX-License-Identifier: MIT
"""The keys of the commands' configurations. Hydra refuses any other, on the command line and in files.

A group (data, loss, ...) is `Any` here and closed by its `_target_`: a wrong argument fails when the object is built,
which is before anything is written.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from datamodules.errors import InputError
from experiments.coordination.steps import check_batch_size
from experiments.picture_identification.config import PicturesConfig
from lightning_modules.schedules import SCHEDULES


@dataclass
class TrainerConfig:
    """How one sub-network is trained."""

    max_epochs: int = 50  # passes over the cluster's training samples
    batch_size: Any = 256  # samples per step, shared by a sub-network's devices; auto: fewer where samples are few
    matmul: str = "medium"  # products in training: highest (float32), high (TF32), medium (bfloat16 operands)
    compile: bool = False  # passes over large matrices by torch.compile (Triton on a GPU); seconds for the first step
    schedule: str = "constant"  # learning rate over the fit: constant, linear (to 0) or cosine (to 0)
    max_logits_mb: int = 1024  # bound on the batch x classes matrix, MiB; larger heads go through it in chunks
    accelerator: str = "auto"  # cpu, gpu, auto
    devices: int = 1  # devices that train one sub-network together
    strategy: str = "auto"  # for devices > 1: ddp (each a share of the batch), model_parallel (of classes)
    check_val_every_n_epoch: int = 1  # epochs between two validations
    checkpoint_every_n_epochs: int = 1  # epochs between two checkpoints, the most that a crash costs
    stack: Any = "auto"  # sub-networks trained in one step, with the same result; auto: 1 on a CPU, 16 on a GPU
    threads: int | None = None  # CPU threads; None leaves torch's choice


def check_trainer(trainer: DictConfig) -> None:
    """Refuses values that would fail only after the run has begun.

    Args:
        trainer: values of `TrainerConfig`.

    Raises:
        InputError: a count below 1, or an unknown precision.
    """
    for key in (
        "max_epochs",
        "max_logits_mb",
        "devices",
        "check_val_every_n_epoch",
        "threads",
        "checkpoint_every_n_epochs",
    ):
        if trainer[key] is not None and trainer[key] < 1:
            raise InputError(f"trainer.{key} = {trainer[key]}", "at least 1", f"correct trainer.{key}")
    check_batch_size(trainer.batch_size)
    from pytorch_lightning.accelerators import AcceleratorRegistry  # late: it brings torch, and --help needs neither

    accelerators = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
    if trainer.accelerator not in accelerators:
        raise InputError(
            f"trainer.accelerator = {trainer.accelerator}", f"one of {', '.join(accelerators)}", "correct it"
        )
    if trainer.stack != "auto" and not (isinstance(trainer.stack, int) and trainer.stack >= 1):
        raise InputError(f"trainer.stack = {trainer.stack}", "auto, or at least 1", "correct trainer.stack")
    if trainer.schedule not in SCHEDULES:
        raise InputError(
            f"trainer.schedule = {trainer.schedule}", f"one of {', '.join(SCHEDULES)}", "correct trainer.schedule"
        )
    if trainer.matmul not in ("highest", "high", "medium"):
        raise InputError(f"trainer.matmul = {trainer.matmul}", "highest, high or medium", "correct trainer.matmul")


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
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    launcher: Any = MISSING


@dataclass
class CompareConfig(TrainingConfig):
    """experiments.compare"""

    n_identities: Any = None  # N, or a list of N; None takes all the data set has
    n_subnets: Any = "auto"  # m, a list of m (one per N), or auto: N / 2000, at least 2
    scenarios: Any = MISSING  # names of configs/scenario/*.yaml
    seeds: Any = 3  # a number of repetitions, or a list of seeds


@dataclass
class TrainConfig(TrainingConfig):
    """experiments.train"""

    scenario: Any = MISSING
    n_identities: Any = None
    n_subnets: Any = "auto"
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
