# SPDX-License-Identifier: MIT
"""Jobs one after another in this process."""

import logging
from collections.abc import Iterable
from functools import partial

from datamodules.errors import InputError
from datamodules.files import disk_error
from experiments.coordination.job import Job, Stack
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.progress import Watcher
from experiments.coordination.stacking import train

log = logging.getLogger(__name__)


class InProcess(Launcher):
    """No other process, no start-up cost."""

    trains_here = True

    def run(self, jobs: Iterable[Job | Stack], progress: Watcher) -> dict[str, str]:
        """Trains each job in turn; see `Launcher.run`."""
        failed = {}
        for job in jobs:
            if job.recipe.trainer["devices"] > 1:
                raise InputError(
                    f"trainer.devices = {job.recipe.trainer['devices']} with launcher=in_process",
                    "one device in one process",
                    "launcher=processes, whose workers are groups of processes",
                )
            progress.job_starts(job.title)
            try:
                train(job, partial(progress.epoch, job.title))
            except Exception as error:
                if (disk := disk_error(error)) is not None:
                    raise disk from None  # it may be the error itself
                # One sub-network that fails must not cost the others; the run ends with a table and a non-zero code.
                log.exception("%s failed", job.title)
                failed[job.identifier] = " ".join(f"{type(error).__name__}: {error}".split())
            progress.job_ends(job.title)
        return failed
