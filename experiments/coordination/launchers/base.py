# SPDX-License-Identifier: MIT
"""Launcher: where jobs run."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from experiments.coordination.job import Job
from experiments.coordination.progress import Progress


class Launcher(ABC):
    """Runs jobs somewhere and waits for them. The result of a job lies on disk and does not depend on the launcher."""

    def at_once(self, devices: int) -> int:
        """How many sub-networks train at the same time on this machine.

        Args:
            devices: that train one sub-network together.
        """
        return 1

    @abstractmethod
    def run(self, jobs: Iterable[Job], progress: Progress) -> dict[str, str]:
        """Runs every job that is not finished.

        Args:
            jobs: independent of each other.
            progress: told of every start, epoch and end.

        Returns:
            For each job that failed, `Job.identifier` and one line saying why. The others go on.
        """
