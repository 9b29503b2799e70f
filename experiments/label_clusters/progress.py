# SPDX-License-Identifier: MIT
"""Progress by method, and within it by the epochs of the network under way."""

import time

from rich.console import Console

from experiments.coordination.progress import SECONDS_BETWEEN_LINES, Progress


class MethodProgress(Progress):
    """Counts methods, over data sets and seeds; how many epochs a network takes is not known before it stops."""

    def __init__(self, console: Console, methods: int):
        super().__init__(console, methods, epochs=1)

    def method_starts(self, title: str) -> None:
        """A method begins on a data set with a seed."""
        super().job_starts(title)

    def method_ends(self, title: str) -> None:
        """A method is done, or has failed."""
        super().job_ends(title)

    def job_starts(self, title: str) -> None:
        """A network begins: methods are counted, not networks."""

    def job_ends(self, title: str) -> None:
        """A network is done, or has failed."""

    def epoch(self, title: str, done: int, of: int, values: dict[str, float]) -> None:
        """An epoch of a network ended; `of` is the most it may take."""
        shown = f"{title}, epoch {done} of at most {of}"
        self._bar.update(self._task, description=shown)
        if not self.console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{shown}, loss {values.get('train/loss', float('nan')):.4g}")
