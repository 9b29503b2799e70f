# SPDX-License-Identifier: MIT
"""Paired measurements: ours and theirs in turn within one run, and the record that comes of it."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from callbacks.epoch_clock import peak_memory_mb, reset_peak_memory, wait
from experiments.benchmarks.machine import release_memory, resident_mb

Measure = Callable[[], float]


@dataclass(frozen=True)
class Skipped:
    """A comparison that was not made: the name of its record, the rival, and why not."""

    name: str
    against: str
    reason: str


@dataclass(frozen=True)
class Taken:
    """What one side gave: a value for each repeat, and the median of its peaks of memory (see `with_peak_memory`)."""

    values: tuple[float, ...]
    peak_mb: float

    @property
    def median(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.values)


def measure_in_turn(sides: Mapping[str, Measure], repeats: int, device: str = "cpu") -> dict[str, Taken]:
    """Runs every side `repeats` times, in turn and every second time in reverse, so that a drift hits all alike.

    Args:
        sides: from a name to what measures once and returns the value.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides) if repeat % 2 == 0 else reversed(list(sides)):
            found[name].append(with_peak_memory(sides[name], device))
    taken = {name: list(zip(*pairs, strict=True)) for name, pairs in found.items()}
    return {name: Taken(values, statistics.median(peaks)) for name, (values, peaks) in taken.items()}


def with_peak_memory(run: Callable[[], Any], device: str = "cpu") -> tuple[Any, float]:
    """What a function returns, and by how many MiB the process (on a GPU: the allocator) rose above what it held."""
    gc.collect()
    release_memory()
    reset_peak_memory(device)
    before = resident_mb(device)
    result = run()
    return result, max(0.0, peak_memory_mb(device) - before)


def seconds(run: Callable[[], Any], device: str = "cpu", at_least: float = 0.0) -> float:
    """Wall clock of one call.

    Args:
        at_least: seconds to fill: a quick function is called again until they have passed, and the mean counts.
    """
    wait(torch.device(device))
    started, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        wait(torch.device(device))
        passed = time.perf_counter() - started
        if passed >= at_least:
            return passed / calls


def record(
    name: str, classes: int, batch: int, precision: str, against: str, unit: str, ours: Taken, theirs: Taken,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A line of benchmark.json: medians, their ratio, and the smallest and largest ratio of a pair.

    The ratio is that of the medians; as each pair's ratio, it is above 1 where ours is better. It lies between the
    smallest and the largest of the pairs, since a median is monotone.

    Args:
        classes: of the head or the index.
        batch: samples or probes at a time.
        precision: of the matrix products, "ours against theirs" where they differ.
        unit: of the values. "samples/s" and "probes/s" are better when larger, anything else when smaller.

    >>> one = record("n", 2, 1, "float32", "x", "s", Taken((1.0, 2.0, 4.0), 0), Taken((4.0, 6.0, 4.0), 0))
    >>> one["ratio"], one["ratio_min"], one["ratio_max"]
    (2.0, 1.0, 4.0)
    """
    larger_is_better = unit.endswith("/s")

    def ratio(our: float, their: float) -> float:
        return our / their if larger_is_better else their / our

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
