# SPDX-License-Identifier: MIT
"""Launcher: where jobs run."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable

from datamodules.errors import InputError
from experiments.coordination.job import Job
from experiments.coordination.progress import Watcher


class Launcher(ABC):
    """Runs jobs somewhere and waits for them. The result of a job lies on disk and does not depend on the launcher.

    Attributes:
        trains_here: whether every job runs in the process that calls `run`.
    """

    trains_here: bool = False

    def at_once(self, devices: int) -> int:
        """How many sub-networks train at the same time on this machine."""
        return 1

    def on_one_gpu(self, devices: int, jobs: int) -> int:
        """How many of one or more jobs train at the same time on the same GPU, at most."""
        return 1

    def devices(self, asked: int | None) -> int | None:
        """The number of devices that train one sub-network.

        Args:
            asked: `trainer.devices`; None if the command has no such key.

        Raises:
            InputError: the launcher cannot have that number, or several processes were started and it does not
                know the others.
        """
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world > 1:
            cure = "launcher=torchrun, or start the command without torchrun"
            raise InputError(f"{world} processes started by torchrun", "one process with this launcher", cure)
        return asked

    def serve(self) -> bool:
        """Called before the command, in every process; True if it was a worker, whose work is over."""
        return False

    def release(self) -> None:  # noqa: B027 most launchers have nobody to release
        """Called after the command, in the process that coordinates: no more jobs will come."""

    @abstractmethod
    def run(self, jobs: Iterable[Job], progress: Watcher) -> dict[str, str]:
        """Runs every job that is not finished.

        Returns:
            For each job that failed, `Job.identifier` and one line saying why. The others go on.
        """
