# SPDX-License-Identifier: MIT
"""Trains jobs one after another in this process."""

import logging
from collections.abc import Iterable
from functools import partial

from datamodules.errors import InputError
from experiments.training.job import Job, Training, TrainingByEntry, failure_line
from experiments.training.launchers.base import Launcher
from experiments.training.progress import Watcher

log = logging.getLogger(__name__)


class InProcess(Launcher):
    """No other process, no start-up cost."""

    trains_here = True

    def run(self, jobs: Iterable[Job], watcher: Watcher, train: Training | None = None) -> dict[str, str]:
        failed: dict[str, str] = {}
        train = train or TrainingByEntry()
        for job in jobs:
            if job.recipe.trainer["devices"] > 1:
                got = f"trainer.devices = {job.recipe.trainer['devices']} with launcher=in_process"
                cure = "launcher=processes, whose workers are groups of processes"
                raise InputError(got, "one device in one process", cure)
            watcher.job_starts(job)
            try:
                train(job, partial(watcher.epoch, job))
            except Exception as error:  # the others go on; the run ends with a table and a non-zero exit code
                failed[job.identifier] = failure_line(error)
                log.exception("%s failed", job.title)
            watcher.job_ends(job, failed.get(job.identifier))
        return failed
