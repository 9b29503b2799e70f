# SPDX-License-Identifier: MIT
"""Counts every epoch that any process of a run begins, whatever launcher started it."""

import os
from collections import Counter
from pathlib import Path

from callbacks.epoch_clock import EpochClock
from experiments.runs.tracking import NoTracking
from experiments.training.job import Job

_start = EpochClock.on_train_epoch_start


class Tally(NoTracking):
    """A tracking that appends a line per epoch begun to a file; the configuration takes it to every worker.

    Args:
        file: to append to.
    """

    def __init__(self, file: str):
        self.file = file

    def open(self, job: Job) -> None:
        """From now on, epochs of this process belong to this job."""

        def counting(clock, trainer, module) -> None:
            with open(self.file, "a") as tally:
                tally.write(f"{job.key}/{job.cluster} {trainer.current_epoch} {os.getpid()}\n")
            _start(clock, trainer, module)

        EpochClock.on_train_epoch_start = counting


def begun(file: Path) -> list[tuple[str, int, int]]:
    """Sub-network, epoch and process of every epoch begun so far."""
    if not file.exists():
        return []
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(line[0], int(line[1]), int(line[2])) for line in lines]


def repeated(file: Path) -> Counter[str]:
    """For each sub-network the epochs begun more than once, each counted as often as it was begun again."""
    again: Counter[str] = Counter()
    for (name, _), times in Counter(line[:2] for line in begun(file)).items():
        again[name] += times - 1
    return again
