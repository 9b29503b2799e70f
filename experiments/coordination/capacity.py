# SPDX-License-Identifier: MIT
"""Says before training what it will take, and refuses what cannot fit.

Axes: C classes of one sub-network, D embedding dimension, B samples per step.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from callbacks.epoch_clock import kernel_bytes
from datamodules.cluster_datamodule import RESIDENT_BYTES
from datamodules.errors import InputError
from experiments.coordination.steps import batch_size
from lightning_modules.kernels import BLOCK

FLOAT = 4
PROCESS_BYTES = 850 << 20  # interpreter, torch, Lightning: measured resident size before any data
WORKING_BYTES = 85 << 20  # what torch and Lightning take with the first steps, whatever the size
VALIDATION_ROWS = 1024  # of a validation batch at least, see `ClusterDataModule.val_dataloader`
CHECKPOINTS = 3  # the two newest, and the one that is being written


@dataclass(frozen=True)
class Need:
    """Bytes that training takes.

    Attributes:
        memory_per_job: bytes of the largest sub-network in one process, its data and its working space included.
        device_per_job: the part of it that lies on a GPU, where it trains on one.
        memory: bytes of all that run at once on this machine, with their processes.
        disk_per_job: of the largest sub-network: its checkpoints and its finished weights.
        disk: of finished weights, of the last checkpoints that stay, and of the checkpoints of each that runs at once.
        large_batch: whether a smaller batch would save half of `memory_per_job` or more.
        on_one_gpu: sub-networks that share a GPU at the same time.
    """

    memory_per_job: int
    device_per_job: int
    memory: int
    disk_per_job: int
    disk: int
    large_batch: bool = False
    on_one_gpu: int = 1

    def __str__(self) -> str:
        each = f"about {_readable(self.memory_per_job)} of memory and {_readable(self.disk_per_job)} of disk each"
        return f"{each}, {_readable(self.memory)} and {_readable(self.disk)} in all"


def need(
    classes: Iterable[int], samples: Iterable[int], dim: int, trainer: dict[str, Any], at_once: int,
    moments: int = 2, on_one_gpu: int = 1, nodes: int = 1, grow: int = 0,
) -> Need:  # fmt: skip
    """What a set of jobs takes.

    On the device: weight, gradient, the optimiser's moments and, in validation, unit rows, each C x D; what a step
    works with, which is one more C x D, a block of it and B x C, or no more than a chunk of classes where B x C is
    above `max_logits_mb`; outputs of a validation batch of 1,024 rows at least, three times (themselves, their
    exponentials, and what the allocator keeps), in parts of half of `max_logits_mb`; the cluster's embeddings where
    they are kept in memory, with the pages of the file they come from. In the process beside it: class means, and what
    libraries take. Measured peaks of five heads (3,000 to 20,000 classes, 256 to 1,024 dimensions) with the fused Adam
    of configs/optimizer lie within 15 % of it; an optimiser that is not fused takes up to two more C x D in its step.
    Where the ranks of a sub-network share its classes (trainer.strategy=model_parallel), so they do the matrices of a
    step and its outputs; a checkpoint gathers one matrix of all classes at a time, in parts and joined. This was not
    measured.

    Args:
        at_once: sub-networks that train at the same time.
        moments: matrices of C x D that the optimiser keeps: 2 of Adam, none of plain SGD.
        on_one_gpu: sub-networks that train at the same time on the same GPU.
        nodes: machines over which the ranks of a sub-network are spread.
        grow: how many of the sub-networks keep their last checkpoint, the largest ones (`Recipe.grows`).
    """
    classes, samples = list(classes), list(samples)
    if not classes:
        return Need(0, 0, 0, 0, 0)
    c, n = max(zip(classes, samples, strict=True))
    matrix = FLOAT * c * dim
    batch, bound = batch_size(trainer["batch_size"], n), trainer["max_logits_mb"] << 20
    share = min(1.0, bound / (FLOAT * batch * c))  # of the classes that a step looks at together
    step = share * (matrix + FLOAT * batch * c) + min(share * matrix, FLOAT * BLOCK)
    outputs = int(step + 3 * min(FLOAT * max(batch, VALIDATION_ROWS) * c, bound // 2))
    data = min(int(1.3 * n * dim * FLOAT), 2 * RESIDENT_BYTES)
    ranks = trainer.get("devices", 1)
    shared_by = ranks if trainer.get("strategy") == "model_parallel" else 1
    gathered = 2 * matrix if shared_by > 1 else 0
    on_device = (3 + moments) * matrix // shared_by + data + outputs // shared_by + gathered
    per_job = on_device + matrix + WORKING_BYTES
    at_once = min(at_once, len(classes))
    checkpoints = CHECKPOINTS * (1 + moments) * matrix
    stay = (1 + moments) * sum(sorted(classes, reverse=True)[:grow])
    return Need(
        memory_per_job=per_job,
        device_per_job=on_device,
        memory=at_once * max(1, ranks // nodes) * (per_job + PROCESS_BYTES),
        disk_per_job=checkpoints + matrix,
        disk=FLOAT * dim * (sum(classes) + stay) + at_once * checkpoints,
        large_batch=batch > VALIDATION_ROWS and outputs > per_job / 2,
        on_one_gpu=on_one_gpu,
    )


def check(needed: Need, run_folder: Path, on_gpu: bool, held: int = 0) -> None:
    """Refuses what does not fit into the free memory (of the GPU where one is used) or onto the disk.

    Args:
        held: bytes of what is needed that are there already: those of this process, where it trains itself.

    Raises:
        InputError: it does not fit.
    """
    free_disk = shutil.disk_usage(run_folder).free
    if needed.disk > free_disk:
        raise InputError(
            f"{_readable(free_disk)} free on the disk of {run_folder}",
            f"{_readable(needed.disk)} for weights and checkpoints",
            "make room, or choose another runs_dir",
        )
    if on_gpu:
        free, _ = torch.cuda.mem_get_info()
        wanted, where = needed.on_one_gpu * needed.device_per_job, "GPU memory"
    else:
        free, wanted, where = free_memory(), max(0, needed.memory - held), "memory"
    if free is not None and wanted > free:
        cure = "more sub-networks (n_subnets), an optimizer with fewer moments, or fewer workers"
        if needed.large_batch:
            cure = "a smaller trainer.batch_size, more sub-networks (n_subnets), or fewer workers"
        expected = f"{_readable(wanted)} for the largest sub-networks that train at once"
        raise InputError(f"{_readable(free)} of free {where}", expected, cure)


def moments_of(make_optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> int:
    """Matrices of the size of the parameters, in float32, that an optimiser keeps; found by one step of it."""
    weight = torch.zeros(4, 4, requires_grad=True)
    weight.grad = torch.ones(4, 4)
    optimizer = make_optimizer([{"params": [weight]}])
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    kept_bytes = sum(value.numel() * value.itemsize for value in kept if value.shape == weight.shape)
    return round(kept_bytes / (FLOAT * weight.numel()))


def free_memory() -> int | None:
    """Bytes of memory that this machine can still give; None where it does not tell."""
    return kernel_bytes("MemAvailable", "/proc/meminfo")


def held_memory() -> int:
    """Bytes of memory that this process has, pages of mapped files not counted; 0 where the system does not tell."""
    return kernel_bytes("RssAnon") or 0


def _readable(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
