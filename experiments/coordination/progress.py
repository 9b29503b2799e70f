# SPDX-License-Identifier: MIT
"""Progress of a run for people: a bar in a terminal, a line now and then elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column

SECONDS_BETWEEN_LINES = 20.0


class Watcher:
    """Whoever is told how far the training of sub-networks is; this one shows nothing."""

    def job_starts(self, title: str) -> None:
        """A sub-network begins."""

    def epoch(self, title: str, done: int, of: int, values: dict[str, float]) -> None:
        """An epoch of a sub-network ended: `done` of `of`, with the values logged so far."""

    def job_ends(self, title: str) -> None:
        """A sub-network is done, or has failed."""


class Progress(Watcher):
    """Shows which scenario, sub-network and epoch a run is at, and the time left.

    Args:
        subnets: sub-networks to train in all, those on disk already not counted.
    """

    def __init__(self, console: Console, subnets: int, epochs: int):
        self.console, self.subnets, self.epochs = console, subnets, epochs
        self.done_subnets = 0
        self._first_epochs: int | None = None
        self._running: dict[str, int] = {}  # epochs done of each sub-network under way
        self._started = self._last_line = time.monotonic()
        # In a narrow window the title is cut off, not the numbers behind it.
        title = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self._bar = RichProgress(
            SpinnerColumn(), title, BarColumn(bar_width=12), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=console, transient=True, disable=not console.is_terminal, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task("epochs", total=max(subnets * epochs, 1))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Shows one lasting line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def job_starts(self, title: str) -> None:
        self._running[title] = 0
        self._bar.update(self._task, description=self._where(title))

    def epoch(self, title: str, done: int, of: int, values: dict[str, float]) -> None:
        self._running[title] = round(done / of * self.epochs)  # a scenario may have another number of epochs
        if self._first_epochs is None:
            self._first_epochs = self.done_epochs - 1  # what a resumed job had done before says nothing about speed
        shown = f"{self._where(title)}, epoch {done} of {of}"
        self._bar.update(self._task, completed=self.done_epochs, description=shown)
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{shown}, loss {values.get('train/loss', float('nan')):.4g}, about {self._left()} left")

    def job_ends(self, title: str) -> None:
        self._running.pop(title, None)
        self.done_subnets += 1
        self._bar.update(self._task, completed=self.done_epochs)

    @property
    def done_epochs(self) -> int:
        """Epochs done of all sub-networks."""
        return self.done_subnets * self.epochs + sum(self._running.values())

    def _where(self, title: str) -> str:
        place = list(self._running).index(title) if title in self._running else 0
        return f"{title}, sub-network {self.done_subnets + 1 + place} of {self.subnets}"

    def _left(self) -> str:
        done = max(self.done_epochs - (self._first_epochs or 0), 1)
        left = (time.monotonic() - self._started) / done * (self.subnets * self.epochs - self.done_epochs)
        return f"{left / 60:.1f} min" if left >= 60 else f"{left:.0f} s"
