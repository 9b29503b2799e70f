# SPDX-License-Identifier: MIT
"""How long each stage of a command took, and how much memory the process held."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from callbacks.epoch_clock import kernel_bytes

SECONDS_BETWEEN_READINGS = 0.2


class Stages:
    """Wall-clock seconds of each stage, and the largest memory of this process.

    Attributes:
        progress: a `Progress`, which shows each stage, or None.
        peak_bytes: largest resident size in bytes, read five times a second while a stage runs, because `EpochClock`
            resets the kernel's own maximum at each epoch; 0 if the system does not tell it.
    """

    def __init__(self, progress: Any = None):
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.peak_bytes = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a stage."""
        started, ended = time.perf_counter(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        watcher.start()
        try:
            with self.progress.stage(name) if self.progress else nullcontext():
                yield
        finally:
            ended.set()
            watcher.join()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def _watch(self, ended: threading.Event) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, kernel_bytes("RssAnon") or 0)
            if ended.wait(SECONDS_BETWEEN_READINGS):
                return

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        memory = f"; at most {self.peak_bytes / 2**30:.2f} GiB of memory" if self.peak_bytes else ""
        return f"{stages}; {sum(self.seconds.values()):.1f} s in all{memory}"
