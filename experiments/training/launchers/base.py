# SPDX-License-Identifier: MIT
"""Launcher: runs jobs somewhere."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable

from datamodules.errors import InputError
from experiments.training.job import Job, Training
from experiments.training.progress import Watcher


class Launcher(ABC):
    """Runs jobs and waits for them. A job writes its result to disk; it does not depend on the launcher."""

    trains_here: bool = False  # whether every job runs in the process that calls `run`

    def at_once(self, devices: int) -> int:
        """How many sub-networks train at the same time on this machine."""
        return 1

    def on_one_gpu(self, devices: int, jobs: int) -> int:
        """How many of the jobs train at the same time on the same GPU, at most."""
        return 1

    def devices(self, asked: int | None) -> int | None:
        """The number of devices that train one sub-network.

        Args:
            asked: `trainer.devices`; None if the command has no such key.

        Raises:
            InputError: the launcher cannot use that number, or torchrun started processes that it cannot use.
        """
        world = int(os.environ.get("WORLD_SIZE", 1))
        if world > 1:
            cure = "launcher=torchrun, or start the command without torchrun"
            raise InputError(f"{world} processes started by torchrun", "one process with this launcher", cure)
        return asked

    def serve(self) -> bool:
        """Called in every process before the command. A worker trains here, and returns True at its end."""
        return False

    def release(self) -> None:  # noqa: B027 most launchers have no workers to release
        """Called in the coordinating process after the command: no more jobs will come."""

    @abstractmethod
    def run(self, jobs: Iterable[Job], watcher: Watcher, train: Training | None = None) -> dict[str, str]:
        """Runs the jobs; one that fails does not stop the others.

        Args:
            train: trains a job in this process on data that are already open; None opens the data that the job names,
                as other processes always do.

        Returns:
            `Job.identifier` of each job that failed, and one line that says why.
        """
