# SPDX-License-Identifier: MIT
"""The machine a benchmark runs on: its threads, its memory, its name."""

import ctypes
import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import torch

from datamodules.errors import InputError


def set_threads(threads: int | None) -> int:
    """Gives torch, faiss and everything that asks OpenMP so many threads, by default one per core, and returns them.

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
    """Facts for the manifest: processor or GPU, cores, threads, memory."""
    facts = {"device": device, "processor": _processor(), "cores": os.cpu_count(), "threads": threads}
    facts["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"^model name\s*:\s*(.+?)\s*$", facts, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def device_of(accelerator: str) -> str:
    """ "cuda" or "cpu", as the trainer would choose."""
    return "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def resident_mb(device: str) -> float:
    """MiB that this process holds now: its resident set, or what the allocator of the GPU has given out."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def release_memory() -> None:
    """Hands freed memory back to the system, so that a peak is not hidden in what an earlier measurement left."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
