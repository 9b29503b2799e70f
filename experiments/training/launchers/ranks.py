# SPDX-License-Identifier: MIT
"""One sub-network on several nodes: torchrun starts the command on every device, and all devices train each job.

Rank 0 runs the command. The other ranks only train: they read each job from torchrun's key-value store. Run folder and
data must have the same path on every node.
"""

import functools
import itertools
import logging
import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from functools import partial

import torch.distributed as dist

from datamodules.errors import InputError
from experiments.command_line.terminal import LINE, notes
from experiments.training.job import EpochReport, Job, Training, TrainingByEntry, failure_line
from experiments.training.launchers.base import Launcher
from experiments.training.progress import Watcher

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
TOGETHER_SECONDS = 30.0  # if every rank fails within this time, the job is the cause, not a rank
_numbers = itertools.count()  # of jobs, the same on each rank; a multirun goes on counting


class Ranks(Launcher):
    """Trains one job after another, each on all processes of torchrun; one that fails on every rank stops no other."""

    def devices(self, asked: int | None) -> int:
        if not dist.is_torchelastic_launched():
            raise InputError(
                "launcher=torchrun without torchrun", "a command that torchrun started",
                "torchrun --nproc-per-node=2 -m ..., or another launcher",
            )  # fmt: skip
        world = int(os.environ["WORLD_SIZE"])
        if asked is None:
            raise InputError(
                "launcher=torchrun for networks that train on one device each", "sub-networks of several devices",
                "launcher=processes or launcher=ray",
            )  # fmt: skip
        if asked not in (1, world):
            raise InputError(
                f"trainer.devices = {asked} with {world} processes of torchrun", "all of them for each sub-network",
                "leave out trainer.devices, or use launcher=ray to train several sub-networks at once",
            )  # fmt: skip
        if _rank() == 0:
            notes().print(f"trainer.devices = {world}: every process of torchrun trains each sub-network", **LINE)
        return world

    def serve(self) -> bool:
        if _rank() == 0:
            return False
        train = TrainingByEntry()
        try:
            for number in _numbers:
                while not _store().check([f"job/{number}"]):
                    time.sleep(POLL_SECONDS)
                if not (text := _store().get(f"job/{number}").decode()):
                    break
                _train_together(number, Job.from_json(text), train)
        except KeyboardInterrupt:
            sys.exit(130)  # rank 0 says that the command was stopped
        return True

    def release(self) -> None:
        _store().set(f"job/{next(_numbers)}", "")

    def run(self, jobs: Iterable[Job], watcher: Watcher, train: Training | None = None) -> dict[str, str]:
        failed: dict[str, str] = {}
        train = train or TrainingByEntry()
        for job in jobs:
            number = next(_numbers)
            _store().set(f"job/{number}", job.to_json())
            watcher.job_starts(job)
            if reason := _train_together(number, job, train, partial(watcher.epoch, job)):
                failed[job.identifier] = reason
            watcher.job_ends(job, reason or None)
        return failed


def _rank() -> int:
    return int(os.environ["RANK"])


@functools.cache
def _store() -> dist.Store:
    env = os.environ
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), timeout=timedelta(minutes=5))
    return dist.PrefixStore(f"clusterface/{env['TORCHELASTIC_RESTART_COUNT']}", store)


def _train_together(number: int, job: Job, train: Training, report: EpochReport | None = None) -> str:
    """Trains a job on this rank; returns why it failed on all ranks, and raises if it failed on some."""
    try:
        train(job, report)
    except Exception as error:
        reason = failure_line(error)
        log.exception("rank %d: %s failed", _rank(), job.title)
        deadline, count = time.monotonic() + TOGETHER_SECONDS, _store().add(f"failed/{number}", 1)
        while count < job.recipe.trainer["devices"]:
            if time.monotonic() > deadline:
                raise  # the other ranks may wait for this one; torchrun ends them
            time.sleep(POLL_SECONDS)
            count = _store().add(f"failed/{number}", 0)
        return reason
    return ""
