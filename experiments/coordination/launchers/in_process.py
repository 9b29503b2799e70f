# SPDX-License-Identifier: MIT
"""Jobs one after another in this process."""

import logging
from collections.abc import Iterable
from functools import partial

from datamodules.errors import InputError
from datamodules.files import disk_error
from experiments.coordination.job import Job
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.progress import Watcher

log = logging.getLogger(__name__)


class InProcess(Launcher):
    """No other process, no start-up cost."""

    trains_here = True

    def run(self, jobs: Iterable[Job], progress: Watcher) -> dict[str, str]:
        failed = {}
        for job in jobs:
            if job.recipe.trainer["devices"] > 1:
                got = f"trainer.devices = {job.recipe.trainer['devices']} with launcher=in_process"
                cure = "launcher=processes, whose workers are groups of processes"
                raise InputError(got, "one device in one process", cure)
            progress.job_starts(job.title)
            try:
                job.train(partial(progress.epoch, job.title))
            except Exception as error:
                if (disk := disk_error(error)) is not None:
                    raise disk from None  # it may be the error itself
                # One sub-network that fails must not cost the others; the run ends with a table and a non-zero code.
                log.exception("%s failed", job.title)
                failed[job.identifier] = " ".join(f"{type(error).__name__}: {error}".split())
            progress.job_ends(job.title)
        return failed
