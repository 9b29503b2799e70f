# SPDX-License-Identifier: MIT
"""A command on several ranks as test_ranks.py starts it: <folder with jobs.json> <torchrun|slurm> <devices>."""

import json
import signal
import sys
from pathlib import Path

import torch

from experiments.coordination.job import Job
from experiments.coordination.launchers.ranks import Ranks


class Told:
    """Stands for `Progress`; remembers what it was told."""

    def __init__(self):
        self.calls = []

    def job_starts(self, title):
        self.calls.append(["starts", title])

    def epoch(self, title, done, of, values):
        self.calls.append(["epoch", title, done, of])

    def job_ends(self, title):
        self.calls.append(["ends", title])


def main(folder: Path, started_by: str, devices: int) -> None:
    """Rank 0 runs the jobs in two calls and writes `result.json`; the others serve."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    launcher, told = Ranks(started_by), Told()
    if launcher.serve(devices):
        return
    jobs = [Job.from_json(text) for text in json.loads((folder / "jobs.json").read_text())]
    try:
        failed = launcher.run(jobs[:-1], told) | launcher.run(jobs[-1:], told)
        (folder / "result.json").write_text(json.dumps({"failed": failed, "told": told.calls}))
    finally:
        launcher.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
