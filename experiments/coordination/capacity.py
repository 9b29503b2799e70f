# SPDX-License-Identifier: MIT
"""Says before training what it will take, and refuses what cannot fit.

Axes: C classes of one sub-network, D embedding dimension, B samples per step.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.cluster_datamodule import RESIDENT_BYTES
from datamodules.errors import InputError
from experiments.coordination.steps import batch_size

FLOAT = 4
PROCESS_BYTES = 700 << 20  # interpreter, torch, Lightning: measured resident size before any data


@dataclass(frozen=True)
class Need:
    """Bytes that training takes.

    Attributes:
        memory_per_job: of the largest sub-network on its device, its data and its working space included.
        memory: of all that run at once, with their processes.
        disk: of finished weights, and of two checkpoints of each that runs at once.
    """

    memory_per_job: int
    memory: int
    disk: int

    def __str__(self) -> str:
        per_job, memory, disk = (_readable(value) for value in (self.memory_per_job, self.memory, self.disk))
        return f"about {per_job} of memory per sub-network, {memory} in all, {disk} on disk"


def need(
    classes: Iterable[int], samples: Iterable[int], dim: int, itemsize: int, trainer: dict[str, Any], at_once: int
) -> Need:
    """What a set of jobs takes.

    Six matrices of C x D: weight, its unit rows, gradient, two moments of Adam, one in flight; one or two of B x C
    outputs, bounded by `max_logits_mb`; the cluster's embeddings where they are kept in memory.

    Args:
        classes: C of each sub-network.
        samples: training and validation samples of each sub-network.
        dim: D.
        itemsize: bytes per stored number of the embedding set.
        trainer: values of `schema.TrainerConfig`.
        at_once: sub-networks that train at the same time.
    """
    classes, samples = list(classes), list(samples)
    if not classes:
        return Need(0, 0, 0)
    per_job = max(
        6 * FLOAT * c * dim
        + 2 * min(trainer["max_logits_mb"] << 20, FLOAT * batch * c)
        + 2 * FLOAT * max(batch, 1024) * c  # outputs of a validation batch
        + min(n * dim * itemsize, RESIDENT_BYTES)
        for c, n, batch in ((c, n, batch_size(trainer["batch_size"], n)) for c, n in zip(classes, samples, strict=True))
    )
    at_once = min(at_once, len(classes))
    weights = FLOAT * dim * sum(classes)
    checkpoints = at_once * 2 * 3 * FLOAT * dim * max(classes)
    return Need(per_job, at_once * (per_job + PROCESS_BYTES), weights + checkpoints)


def check(needed: Need, run_folder: Path, on_gpu: bool) -> None:
    """Refuses what does not fit into the free memory (of the GPU where one is used) or onto the disk.

    Args:
        needed: by `need`.
        run_folder: whose disk is looked at.
        on_gpu: whether sub-networks train on a GPU, one per GPU at a time.

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
        wanted, where = needed.memory_per_job, "GPU memory"
    else:
        free, wanted, where = free_memory(), needed.memory, "memory"
    if free is not None and wanted > free:
        raise InputError(
            f"{_readable(free)} of free {where}",
            f"{_readable(wanted)} for the largest sub-networks that train at once",
            "more sub-networks (n_subnets), a smaller trainer.batch_size or trainer.max_logits_mb, fewer workers",
        )


def free_memory() -> int | None:
    """Bytes of memory that this machine can still give; None where it does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _readable(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
