# SPDX-License-Identifier: MIT
"""The machine a benchmark runs on: its threads, its memory, its name."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import faiss
import torch

from datamodules.errors import InputError


def set_threads(threads: int | None) -> int:
    """Gives torch, faiss and everything that asks OpenMP the same number of threads.

    Args:
        threads: the number; None takes the cores this process may use.

    Returns:
        The number that was set.

    Raises:
        InputError: fewer than one.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}", "at least 1, or null", "correct threads")
    count = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(count)  # the k-means partitioner reads it
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    return count


def describe(threads: int, device: str) -> dict[str, Any]:
    """Facts for the manifest: processor or GPU, cores, threads, memory.

    Args:
        threads: as they were set.
        device: "cpu" or "cuda".
    """
    facts = {"device": device, "processor": _processor(), "cores": os.cpu_count(), "threads": threads}
    facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_of(accelerator: str) -> str:
    """ "cuda" or "cpu", as the trainer would choose.

    Args:
        accelerator: value of trainer.accelerator.
    """
    return "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def resident_mb(device: str) -> float:
    """MiB that this process holds now: its resident set, or what the allocator of the GPU has given out.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def release_memory() -> None:
    """Hands freed memory back to the system, so that a peak is not hidden in what an earlier measurement left."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
