# SPDX-License-Identifier: MIT
"""Launcher: where jobs run."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable

from datamodules.errors import InputError
from experiments.coordination.job import Job, Stack
from experiments.coordination.progress import Watcher


class Launcher(ABC):
    """Runs jobs somewhere and waits for them. The result of a job lies on disk and does not depend on the launcher.

    Attributes:
        trains_here: whether every job runs in the process that calls `run`.
    """

    trains_here: bool = False

    def at_once(self, devices: int) -> int:
        """How many sub-networks train at the same time on this machine.

        Args:
            devices: that train one sub-network together.
        """
        return 1

    def serve(self, devices: int) -> bool:
        """Called before the command, in every process that was started with it.

        Args:
            devices: that train one sub-network together.

        Returns:
            True where this process was a worker and its work is over; False where it is the one that coordinates.

        Raises:
            InputError: several processes were started, and this launcher does not know the others.
        """
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world > 1:
            raise InputError(
                f"{world} processes started by torchrun", "one process with this launcher",
                "launcher=torchrun, or start the command without torchrun",
            )  # fmt: skip
        return False

    def release(self) -> None:  # noqa: B027 most launchers have nobody to release
        """Called after the command, in the process that coordinates: no more jobs will come."""

    @abstractmethod
    def run(self, jobs: Iterable[Job | Stack], progress: Watcher) -> dict[str, str]:
        """Runs every job that is not finished.

        Args:
            jobs: independent of each other.
            progress: told of every start, epoch and end.

        Returns:
            For each job that failed, `Job.identifier` and one line saying why. The others go on.
        """
