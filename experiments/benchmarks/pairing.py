# SPDX-License-Identifier: MIT
"""Paired measurements: ours and theirs in turn within one run, and the record that comes of it."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from callbacks.epoch_clock import peak_memory_mb, reset_peak_memory
from experiments.benchmarks.machine import release_memory, resident_mb

Measure = Callable[[], float]


@dataclass(frozen=True)
class Skipped:
    """A comparison that was not made.

    Attributes:
        name: of the record it would have been.
        against: the rival.
        reason: why not, with the cure.
    """

    name: str
    against: str
    reason: str


@dataclass(frozen=True)
class Taken:
    """What one side gave.

    Attributes:
        values: one for each repeat.
        peak_mb: MiB that the process (on a GPU: the allocator) held more at its peak than before, the median over
            repeats.
    """

    values: tuple[float, ...]
    peak_mb: float

    @property
    def median(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.values)


def measure_in_turn(sides: dict[str, Measure], repeats: int, device: str = "cpu") -> dict[str, Taken]:
    """Runs every side `repeats` times, in turn and every second time in reverse, so that a drift hits all alike.

    Args:
        sides: from a name to what measures once and returns the value.
        repeats: times that each runs.
        device: whose memory is looked at.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides) if repeat % 2 == 0 else list(reversed(sides))
        for name in names:
            value, peak = with_peak_memory(sides[name], device)
            values[name].append(value)
            peaks[name].append(peak)
    return {name: Taken(tuple(values[name]), statistics.median(peaks[name])) for name in sides}


def with_peak_memory(run: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """What a function returns, and by how many MiB memory rose above what was held before.

    Args:
        run: the function.
        device: "cpu" looks at the resident set of this process, "cuda" at the allocator of the GPU.
    """
    gc.collect()
    release_memory()
    reset_peak_memory(device)
    before = resident_mb(device)
    result = run()
    return result, max(0.0, peak_memory_mb(device) - before)


def seconds(run: Callable[[], Any], device: str = "cpu", at_least: float = 0.0) -> float:
    """Wall clock of one call.

    Args:
        run: what is timed.
        device: waited for before and after.
        at_least: seconds to fill: a quick function is called again until they have passed, and the mean counts.
    """
    _wait(device)
    started, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        _wait(device)
        passed = time.perf_counter() - started
        if passed >= at_least:
            return passed / calls


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def record(
    name: str,
    classes: int,
    batch: int,
    precision: str,
    against: str,
    unit: str,
    ours: Taken,
    theirs: Taken,
    **more: Any,
) -> dict[str, Any]:
    """A line of benchmark.json: medians, their ratio, and the smallest and largest ratio of a pair.

    The ratio is that of the medians; as each pair's ratio, it is above 1 where ours is better. It lies between the
    smallest and the largest of the pairs, since a median is monotone.

    Args:
        name: what is compared.
        classes: of the head or the index.
        batch: samples or probes at a time.
        precision: of the matrix products, "ours against theirs" where they differ.
        against: the rival.
        unit: of the values. "samples/s" and "probes/s" are better when larger, anything else when smaller.
        ours, theirs: what was measured, with equally many repeats.
        **more: further keys.

    >>> one = record("n", 2, 1, "float32", "x", "s", Taken((1.0, 2.0, 4.0), 0), Taken((4.0, 6.0, 4.0), 0))
    >>> one["ratio"], one["ratio_min"], one["ratio_max"]
    (2.0, 1.0, 4.0)
    """
    larger_is_better = unit.endswith("/s")

    def ratio(our: float, their: float) -> float:
        above, below = (our, their) if larger_is_better else (their, our)
        return above / below

    pairs = [ratio(our, their) for our, their in zip(ours.values, theirs.values, strict=True)]
    return {
        "name": name,
        "classes": classes,
        "batch": batch,
        "precision": precision,
        "against": against,
        "ratio": ratio(ours.median, theirs.median),
        "ratio_min": min(pairs),
        "ratio_max": max(pairs),
        "unit": unit,
        "ours": ours.median,
        "theirs": theirs.median,
        "repeats": len(pairs),
        "ours_peak_mb": ours.peak_mb,
        "theirs_peak_mb": theirs.peak_mb,
        **more,
    }
