# SPDX-License-Identifier: MIT
"""The state of every sub-network of a run, kept in its manifest."""

import logging
from pathlib import Path
from typing import Any, Self

from datamodules.files import sha256
from experiments.coordination.job import Job
from experiments.coordination.progress import Watcher
from experiments.coordination.run_folder import RunFolder

log = logging.getLogger(__name__)


class Ledger(Watcher):
    """Notes each sub-network as pending, training, done or failed, and the SHA-256 of the files of those done.

    The files tell what is finished; the manifest repeats it for people and other programs, after the files it names.

    Attributes:
        missing: jobs that are to be trained.

    Args:
        jobs: all of the run; what is finished is verified, and trained again where it is damaged.
    """

    def __init__(self, run: RunFolder, jobs: list[Job]):
        self.run, self.missing, self._progress = run, [], Watcher()
        self._states: dict[str, dict[str, Any]] = dict(run.manifest.get("subnetworks", {}))
        self._titled: dict[str, list[Job]] = {}  # titles may repeat: two starts of one head, say
        for job in jobs:
            record = job.record()
            if record is None:
                self.missing.append(job)
                self._titled.setdefault(job.title, []).append(job)
                self._set(job, "pending")
            else:
                self._done(job, record)
        for job in {job.stem: job for job in jobs if job not in self.missing}.values():
            job.tidy()  # its process may have been killed before it could
        self.run.note(subnetworks=self._states)

    def watching(self, progress: Watcher) -> Self:
        """Passes on what a launcher tells it."""
        self._progress = progress
        return self

    def job_starts(self, title: str) -> None:
        for job in self._titled[title]:
            if self._states[_name(job)]["state"] == "pending":
                self._set(job, "training")
                break
        self.run.note(soon=True, subnetworks=self._states)
        self._progress.job_starts(title)

    def epoch(self, title: str, done: int, of: int, values: dict[str, float]) -> None:
        self._progress.epoch(title, done, of, values)

    def job_ends(self, title: str) -> None:
        for job in self._titled[title]:
            if self._states[_name(job)]["state"] == "training" and (record := job.record()) is not None:
                self._done(job, record)
        self.run.note(soon=True, subnetworks=self._states)
        self._progress.job_ends(title)

    def close(self, reasons: dict[str, str]) -> None:
        """Notes the rest, once the launcher has returned.

        Args:
            reasons: why jobs failed, by `Job.identifier`.
        """
        for job in self.missing:
            if job.identifier in reasons:
                self._set(job, "failed", reason=reasons[job.identifier])
            elif self._states[_name(job)]["state"] != "done" and (record := job.record()) is not None:
                self._done(job, record)
        failed = {job.title: reasons[job.identifier] for job in self.missing if job.identifier in reasons}
        self.run.note(subnetworks=self._states, failed=failed)

    def _set(self, job: Job, state: str, **facts: Any) -> None:
        about = {"title": job.title, "seed": job.recipe.seed, "partition": Path(job.partition).name}
        self._states[_name(job)] = {**about, "state": state, **facts}

    def _done(self, job: Job, record: dict[str, Any]) -> None:
        self._set(job, "done")
        weights, about = (job.stem.with_suffix(suffix) for suffix in (".safetensors", ".json"))
        self.run.files[str(weights.relative_to(self.run.path))] = record["sha256"]
        self.run.files[str(about.relative_to(self.run.path))] = sha256(about)


def _name(job: Job) -> str:
    return f"{job.key}/{job.cluster:05d}"
