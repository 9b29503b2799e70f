# SPDX-License-Identifier: MIT
"""Paired measurements within one run: ours and the baselines by turns, and the record of a pair."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils.benchmark import Timer

from callbacks.epoch_clock import peak_memory_mb, reset_peak_memory, wait

Measure = Callable[[], float]


@dataclass(frozen=True)
class Skipped:
    """A comparison that was not made, and the reason."""

    name: str
    baseline: str
    reason: str


@dataclass(frozen=True)
class Taken:
    """A value for each repeat, and the median of the peaks of memory in MiB (None: not measured)."""

    values: tuple[float, ...]
    peak_mb: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def measure_in_turn(
    sides: Mapping[str, Measure], repeats: int, device: str = "cpu", memory: bool = True
) -> dict[str, Taken]:
    """Runs every side `repeats` times, by turns and every second time in reverse: a drift hits all sides alike.

    The peak of `memory` does not see child processes.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides) if repeat % 2 == 0 else reversed(list(sides)):
            found[name].append(with_peak_memory(sides[name], device) if memory else (sides[name](), 0.0))
    both = {name: list(zip(*pairs, strict=True)) for name, pairs in found.items()}
    return {name: Taken(values, statistics.median(peaks) if memory else None) for name, (values, peaks) in both.items()}


def with_peak_memory(run: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """The result of a function, and the rise of memory in MiB: of the process, or of the allocator of a GPU."""
    gc.collect()
    # Freed memory that the process still holds would hide a peak.
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if device == "cuda":
        torch.cuda.empty_cache()
    reset_peak_memory(device)
    before = torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss
    result = run()
    return result, max(0.0, peak_memory_mb(device) - before / 2**20)


def seconds(run: Callable[[], Any], device: str = "cpu", at_least: float = 0.0) -> float:
    """Wall clock of one call; with `at_least`, the mean over as many calls as fill that many seconds."""
    if at_least:
        timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=at_least).mean
    wait(torch.device(device))
    started = time.perf_counter()
    run()
    wait(torch.device(device))
    return time.perf_counter() - started


def record(
    name: str, classes: int, batch: int, precision: str, baseline: str, unit: str, ours: Taken, theirs: Taken,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """An entry of benchmark.json: medians, their ratio, and the smallest and largest ratio of a pair.

    A ratio is above 1 if ours is better. The ratio of the medians lies between those of the pairs, since a median
    is monotone.

    Args:
        precision: of the matrix products, "ours against theirs" if they differ.
        unit: "samples/s" and "probes/s" are better when larger, all others when smaller.

    >>> one = record("n", 2, 1, "float32", "x", "s", Taken((1.0, 2.0, 4.0)), Taken((4.0, 6.0, 4.0)))
    >>> one["ratio"], one["ratio_min"], one["ratio_max"]
    (2.0, 1.0, 4.0)
    """

    def ratio(our: float, their: float) -> float:
        return our / their if unit.endswith("/s") else their / our

    pairs = [ratio(our, their) for our, their in zip(ours.values, theirs.values, strict=True)]
    return {
        "name": name, "classes": classes, "batch": batch, "precision": precision, "baseline": baseline,
        "ratio": ratio(ours.median, theirs.median), "ratio_min": min(pairs), "ratio_max": max(pairs), "unit": unit,
        "ours": ours.median, "theirs": theirs.median, "repeats": len(pairs), "ours_peak_mb": ours.peak_mb,
        "theirs_peak_mb": theirs.peak_mb, **more,
    }  # fmt: skip
