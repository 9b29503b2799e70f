# SPDX-License-Identifier: MIT
"""Jobs one after another in this process."""

import logging
from collections.abc import Iterable
from functools import partial

from experiments.coordination.job import Job
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.progress import Progress
from experiments.coordination.training import train

log = logging.getLogger(__name__)


class InProcess(Launcher):
    """No other process, no start-up cost."""

    def run(self, jobs: Iterable[Job], progress: Progress) -> dict[str, str]:
        """Trains each job in turn; see `Launcher.run`."""
        failed = {}
        for job in jobs:
            progress.job_starts(job.title)
            try:
                train(job, partial(progress.epoch, job.title))
            except Exception as error:
                # One sub-network that fails must not cost the others; the run ends with a table and a non-zero code.
                log.exception("%s failed", job.title)
                failed[job.title] = " ".join(f"{type(error).__name__}: {error}".split())
            progress.job_ends(job.title)
        return failed
