# SPDX-License-Identifier: MIT
"""Progress of a run: a bar in a terminal; in a file or a pipe a line every 20 seconds."""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from experiments.training.job import Job

SECONDS_BETWEEN_LINES = 20.0
# A step takes about as long as 500 classes more would: measured at 256 samples of 512 dimensions.
CLASSES_PER_STEP = 500


class Watcher:
    """A launcher tells a watcher how far the training of sub-networks is. The base class ignores it."""

    def job_starts(self, job: Job) -> None:
        """The training of a sub-network begins."""

    def epoch(self, job: Job, done: int, of: int, values: dict[str, float]) -> None:
        """An epoch ended: `done` of `of`, with the values logged so far."""

    def job_ends(self, job: Job, failure: str | None) -> None:
        """A sub-network is trained, or it failed for the reason given."""


class Watchers(Watcher):
    """Tells several watchers, in the order given."""

    def __init__(self, *watchers: Watcher):
        self.watchers = watchers

    def job_starts(self, job: Job) -> None:
        for watcher in self.watchers:
            watcher.job_starts(job)

    def epoch(self, job: Job, done: int, of: int, values: dict[str, float]) -> None:
        for watcher in self.watchers:
            watcher.epoch(job, done, of, values)

    def job_ends(self, job: Job, failure: str | None) -> None:
        for watcher in self.watchers:
            watcher.job_ends(job, failure)


def amount_of_work(job: Job) -> float:
    """The amount of work of a job, proportional to its time."""
    classes = job.facts.get("classes", 1)
    return float(job.recipe.trainer["max_epochs"] * classes * (classes + CLASSES_PER_STEP))


class Progress(Watcher):
    """Shows the current part of a run and the time left. A part is a job, or has a name that `begins` gives.

    Args:
        work: amount of work of each unfinished part, by `Job.identifier` or name, in any unit.
        noun: the word for a part.
    """

    def __init__(self, console: Console, work: Mapping[str, float], noun: str = "sub-network"):
        self.console, self.work, self.noun = console, dict(work), noun
        self.total = sum(self.work.values()) or 1.0
        self._ended: list[str] = []
        self._share: dict[str, float] = {}  # done of each part under way, from 0 to 1
        self._first_work: float | None = None
        self._started = self._last_line = time.monotonic()
        # A narrow window cuts off the title, not the numbers after it.
        title = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self._bar = RichProgress(
            SpinnerColumn(), title, BarColumn(bar_width=12), TaskProgressColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console, transient=True, disable=not console.is_terminal, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task(f"{noun}s", total=self.total, left="-:--:--")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begins(self, name: str, title: str) -> None:
        """A part begins."""
        self._share[name] = 0.0
        self._bar.update(self._task, description=self._where(name, title))

    def advances(self, name: str, title: str, done: int, of: int, loss: float) -> None:
        """An epoch of a part ended: `done` of `of`."""
        self._share[name] = done / of
        if self._first_work is None:
            # Epochs of an earlier process say nothing about the speed of this one.
            self._first_work = self.done - self.work.get(name, 0.0) / of
        shown = f"{self._where(name, title)}, epoch {done} of {of}"
        self._bar.update(self._task, completed=self.done, description=shown, left=self._left())
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{shown}, loss {loss:.4g}, about {self._left()} left")

    def ends(self, name: str) -> None:
        """A part is done, or it failed."""
        self._share.pop(name, None)
        self._ended.append(name)
        self._bar.update(self._task, completed=self.done, left=self._left())

    def job_starts(self, job: Job) -> None:
        self.begins(job.identifier, job.title)

    def epoch(self, job: Job, done: int, of: int, values: dict[str, float]) -> None:
        self.advances(job.identifier, job.title, done, of, values.get("train/loss", float("nan")))

    def job_ends(self, job: Job, failure: str | None) -> None:
        self.ends(job.identifier)

    @property
    def done(self) -> float:
        """Work done so far."""
        under_way = sum(share * self.work.get(name, 0.0) for name, share in self._share.items())
        return sum(self.work.get(name, 0.0) for name in self._ended) + under_way

    def _where(self, name: str, title: str) -> str:
        place = list(self._share).index(name) if name in self._share else 0
        return f"{title}, {self.noun} {len(self._ended) + 1 + place} of {len(self.work)}"

    def _left(self) -> str:
        done = self.done - (self._first_work or 0.0)
        if done <= 0:
            return "-:--:--"
        seconds = round((time.monotonic() - self._started) / done * (self.total - self.done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
