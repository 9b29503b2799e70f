# SPDX-License-Identifier: MIT
"""Progress of a run: a bar in a terminal; in a file or a pipe a line every 20 seconds, and for each longer stage."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from experiments.training.job import Job

SECONDS_BETWEEN_LINES = 20.0
SECONDS_BEFORE_LINE = 2.0
SECONDS = "seconds"  # the kind of parts whose time does not depend on the size of the data
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
    return job.recipe.trainer["max_epochs"] * training_work(job.facts.get("classes", 1))


def training_work(n_identities: int, n_subnets: int = 1) -> float:
    """The amount of work of one epoch of all sub-networks."""
    return float(n_identities * (n_identities / n_subnets + CLASSES_PER_STEP))


class Progress(Watcher):
    """Shows the current part of a run and the time left. A part is a job, a stage, or has a name that `begins` gives.

    The time left sums over kinds of parts. A kind takes as long per unit of work as it took so far; a kind that has not
    begun takes as long as the others.

    Args:
        work: amount of work of each unfinished part, by `Job.identifier` or name, in any unit.
        noun: the word for a part, and its kind.
    """

    def __init__(self, console: Console, work: Mapping[str, float], noun: str = "sub-network"):
        self.console, self.noun = console, noun
        self.work = {noun: dict(work)}  # by kind
        self._ended: set[str] = set()
        self._share: dict[str, float] = {}  # done of each part under way, from 0 to 1
        self._first_work: float | None = None
        self._spent: dict[str, float] = {}  # seconds, by kind
        self._stages: list[str] = []  # titles, the innermost last
        self._entered = 0
        self._last = self._last_line = time.monotonic()
        # A narrow window cuts off the title, not the numbers after it.
        title = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self._bar = RichProgress(
            SpinnerColumn(), title, BarColumn(bar_width=12), TaskProgressColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console, transient=True, disable=not console.is_terminal or console.quiet, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task(f"{noun}s", total=1.0, left="-:--:--")

    def __enter__(self) -> Self:
        self._entered += 1
        if self._entered == 1:
            self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._entered -= 1
        if self._entered == 0:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def expect(self, work: Mapping[str, float], kind: str) -> None:
        """Adds unfinished parts of a kind. The unit is that of the others, or seconds for the kind `SECONDS`."""
        self.work.setdefault(kind, {}).update(work)
        self._ended -= work.keys()

    def forget(self, name: str) -> None:
        """A part that was expected is not needed."""
        for parts in self.work.values():
            parts.pop(name, None)

    @contextmanager
    def stage(self, name: str, title: str | None = None) -> Iterator[None]:
        """Shows a part while it runs: in a terminal at once, elsewhere by a line once it takes two seconds.

        Args:
            title: what is shown; None is `name`. A stage inside another is shown while it runs.
        """
        self._stages.append(title or name)
        line = threading.Timer(SECONDS_BEFORE_LINE, self.say, [f"{self._stages[-1]} ..."])
        line.daemon = True
        if not self.console.is_terminal:
            line.start()
        with self:
            self.begins(name, self._stages[-1])
            try:
                yield
            finally:
                line.cancel()
                self._stages.pop()
                self.ends(name)
                if self._stages:
                    self._bar.update(self._task, description=self._stages[-1])

    def begins(self, name: str, title: str) -> None:
        """A part begins."""
        self._clock()
        self._share[name] = 0.0
        self._bar.update(self._task, description=self._where(name, title), **self._far())

    def advances(self, name: str, title: str, done: int, of: int, loss: float) -> None:
        """An epoch of a part ended: `done` of `of`."""
        self._clock()
        self._share[name] = done / of
        if self._first_work is None:
            # Epochs of an earlier process say nothing about the speed of this one.
            self._first_work = self._done(self.noun) - self.work[self.noun].get(name, 0.0) / of
        shown = f"{self._where(name, title)}, epoch {done} of {of}"
        self._bar.update(self._task, description=shown, **self._far())
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{shown}, loss {loss:.4g}, about {self._left()} left")

    def ends(self, name: str) -> None:
        """A part is done, or it failed."""
        self._clock()
        self._share.pop(name, None)
        self._ended.add(name)
        self._bar.update(self._task, **self._far())

    def job_starts(self, job: Job) -> None:
        self.begins(job.identifier, job.title)

    def epoch(self, job: Job, done: int, of: int, values: dict[str, float]) -> None:
        self.advances(job.identifier, job.title, done, of, values.get("train/loss", float("nan")))

    def job_ends(self, job: Job, failure: str | None) -> None:
        self.ends(job.identifier)

    def _clock(self) -> None:
        """Adds the seconds since the last event to the kind that was under way."""
        now = time.monotonic()
        for kind, parts in self.work.items():
            if any(name in parts for name in self._share):
                self._spent[kind] = self._spent.get(kind, 0.0) + now - self._last
        self._last = now

    def _done(self, kind: str) -> float:
        parts = self.work[kind]
        return sum(work * (name in self._ended or self._share.get(name, 0.0)) for name, work in parts.items())

    def _where(self, name: str, title: str) -> str:
        counted = self.work[self.noun]
        if name not in counted:
            return title
        place = [one for one in self._share if one in counted].index(name) if name in self._share else 0
        return f"{title}, {self.noun} {len(self._ended & counted.keys()) + 1 + place} of {len(counted)}"

    def _seconds_left(self) -> float | None:
        done = {kind: self._done(kind) for kind in self.work}
        done[self.noun] -= self._first_work or 0.0
        rates = {kind: self._spent[kind] / done[kind] for kind in self._spent if done[kind] > 0}
        measured = [kind for kind in rates if kind != SECONDS]
        if not measured:
            return None
        usual = sum(self._spent[kind] for kind in measured) / sum(done[kind] for kind in measured)
        rates |= {SECONDS: 1.0}
        return sum(rates.get(kind, usual) * (sum(self.work[kind].values()) - self._done(kind)) for kind in self.work)

    def _left(self) -> str:
        if (left := self._seconds_left()) is None:
            return "-:--:--"
        seconds = round(left)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _far(self) -> dict[str, Any]:
        left, spent = self._seconds_left(), sum(self._spent.values())
        return {"completed": spent / (spent + left) if left is not None and spent else 0.0, "left": self._left()}
