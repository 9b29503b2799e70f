# SPDX-License-Identifier: MIT
"""Estimates the memory and disk that training needs, and refuses a run that does not fit.

Axes: C classes of one sub-network, D embedding dimension, B samples per step.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from callbacks.epoch_clock import kernel_bytes
from datamodules.cluster_datamodule import RESIDENT_BYTES, batch_size
from datamodules.errors import InputError
from lightning_modules.kernels import BLOCK

FLOAT = 4
PROCESS_BYTES = 850 << 20  # interpreter, torch, Lightning: resident size without data, measured
WORKING_BYTES = 85 << 20  # that torch and Lightning allocate in the first steps, measured
VALIDATION_ROWS = 1024  # least rows of a validation batch, see `ClusterDataModule.val_dataloader`
CHECKPOINTS = 3  # the two newest, and one that is being written


@dataclass(frozen=True)
class Need:
    """Bytes that training needs.

    Attributes:
        memory_per_job: bytes of the largest sub-network in one process, with its data.
        device_per_job: bytes of it that are on the GPU if it trains on one.
        memory: bytes of all sub-networks that train at once on this machine, with their processes.
        disk_per_job: bytes of the checkpoints and the weights of the largest sub-network.
        disk: bytes of all weights, of the checkpoints that stay, and of those of sub-networks that train at once.
        large_batch: whether a smaller batch would save half of `memory_per_job` or more.
        on_one_gpu: sub-networks that train on the same GPU at the same time.
    """

    memory_per_job: int
    device_per_job: int
    memory: int
    disk_per_job: int
    disk: int
    large_batch: bool = False
    on_one_gpu: int = 1

    def __str__(self) -> str:
        return (
            f"those that train at once need about {_readable(self.memory)} of memory, "
            f"{_readable(self.memory_per_job)} each beside their processes; all of them about {_readable(self.disk)} "
            f"of disk, {_readable(self.disk_per_job)} each while they train"
        )


def estimate(
    classes: list[int], samples: list[int], dim: int, trainer: dict[str, Any], at_once: int,
    moments: int = 2, on_one_gpu: int = 1, nodes: int = 1, grow: int = 0,
) -> Need:  # fmt: skip
    """What a set of jobs needs, from the classes and samples of each.

    On the device: weight, gradient, the optimiser's moments and, in validation, unit rows, each C x D; in a step one
    more C x D, a block of it, and B x C (above `max_logits_mb` those of a chunk of classes); in validation the outputs,
    their exponentials, and as much again in the allocator; the embeddings. In the process also class means and
    libraries. Measured peaks of five heads (3,000 to 20,000 classes, 256 to 1,024 dimensions) with fused Adam are
    within 15 % of it; an optimiser that is not fused needs up to two more C x D. With trainer.strategy=model_parallel
    the ranks share all matrices, and a checkpoint gathers one of them at a time; this was not measured.

    Args:
        at_once: sub-networks that train at the same time.
        moments: matrices of C x D that the optimiser keeps: 2 for Adam, 0 for plain SGD.
        on_one_gpu: sub-networks that train at the same time on the same GPU.
        nodes: machines over which the ranks of a sub-network are spread.
        grow: how many sub-networks keep their last checkpoint; the largest ones are assumed (`Recipe.grows`).
    """
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


def check_fits(needed: Need, run_folder: Path, on_gpu: bool, held: int = 0) -> None:
    """Refuses what does not fit into the free memory (with `on_gpu` that of the GPU) or onto the disk.

    Args:
        held: bytes that this process has already, if it trains itself.

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
    """Matrices of the parameters' size, in float32, that an optimiser keeps; one step of it is tried."""
    weight = torch.zeros(4, 4, requires_grad=True)
    weight.grad = torch.ones(4, 4)
    optimizer = make_optimizer([{"params": [weight]}])
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    kept_bytes = sum(value.numel() * value.itemsize for value in kept if value.shape == weight.shape)
    return round(kept_bytes / (FLOAT * weight.numel()))


def free_memory() -> int | None:
    """Free memory of this machine in bytes; None if the system does not tell it."""
    return kernel_bytes("MemAvailable", "/proc/meminfo")


def _readable(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
