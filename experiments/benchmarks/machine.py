# SPDX-License-Identifier: MIT
"""The machine that a benchmark runs on."""

import os
import platform
from typing import Any

import faiss
import psutil
import torch

from datamodules.errors import InputError

MATRIX_UNITS = {  # of torch.cpu.get_capabilities
    "amx_bf16": "AMX", "avx512_bf16": "AVX-512 bfloat16", "avx512_f": "AVX-512", "avx2": "AVX2", "sve": "SVE",
    "neon": "NEON",
}  # fmt: skip


def set_threads(threads: int | None) -> int:
    """Sets the threads of torch, faiss and OpenMP, by default one per core; returns their number, refuses below 1."""
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}", "at least 1, or null", "correct threads")
    count = threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(count)  # the k-means partitioner reads it
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    return count


def describe(threads: int, device: str) -> dict[str, Any]:
    """The processor with the units that multiply matrices, cores, threads and memory."""
    units = torch.cpu.get_capabilities()
    facts = {
        "device": device,
        "cpu": units.get("cpu_name") or platform.processor() or platform.machine(),
        "matrix_units": ", ".join(name for key, name in MATRIX_UNITS.items() if units.get(key)) or "none",
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    return {**facts, "gpu": torch.cuda.get_device_name()} if device == "cuda" else facts


def device_of(accelerator: str) -> str:
    """ "cuda" or "cpu", as the trainer would choose."""
    return "cuda" if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
