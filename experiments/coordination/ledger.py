# SPDX-License-Identifier: MIT
"""The state of every sub-network of a run, kept in its manifest."""

import logging
from pathlib import Path
from typing import Any

from datamodules.files import sha256
from experiments.coordination.job import Job
from experiments.coordination.progress import Progress
from experiments.coordination.run_folder import RunFolder

log = logging.getLogger(__name__)


class Ledger:
    """Notes each sub-network as pending, training, done or failed, and the SHA-256 of the files of those done.

    The files tell what is finished; the manifest repeats it for people and other programs, after the files it names.

    Attributes:
        missing: jobs that are to be trained.

    Args:
        run: the opened run folder.
        jobs: all of the run; what is finished is verified, and restored from its copy where it is damaged.
    """

    def __init__(self, run: RunFolder, jobs: list[Job]):
        self.run, self.missing = run, []
        self._states: dict[str, dict[str, Any]] = dict(run.manifest.get("subnetworks", {}))
        self._titled: dict[str, list[Job]] = {}  # titles may repeat: two starts of one head, say
        for job in jobs:
            record = job.record() or job.restore()
            if record is None:
                self.missing.append(job)
                self._titled.setdefault(job.title, []).append(job)
                self._set(job, "pending")
            else:
                self._done(job, record)
        unfinished = {job.stem for job in self.missing}
        for file in run.path.glob("subnetworks/*/*.epoch-*.safetensors"):
            if file.with_name(file.name.partition(".")[0]) not in unfinished:
                file.unlink(missing_ok=True)  # its job was finished and its process killed before it could tidy up
        self._note(soon=False)

    def watching(self, progress: Progress) -> "_Watching":
        """What a launcher tells, passed on and noted.

        Args:
            progress: for people.
        """
        return _Watching(self, progress)

    def starts(self, title: str) -> None:
        """A sub-network of that title begins."""
        for job in self._titled[title]:
            if self._states[_name(job)]["state"] == "pending":
                self._set(job, "training")
                break
        self._note(soon=True)

    def ends(self, title: str) -> None:
        """A sub-network of that title is done, or has failed."""
        for job in self._titled[title]:
            if self._states[_name(job)]["state"] == "training" and (record := job.record()) is not None:
                self._done(job, record)
        self._note(soon=True)

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
        self._note(soon=False, failed=failed)

    def _set(self, job: Job, state: str, **facts: Any) -> None:
        about = {"title": job.title, "seed": job.recipe.seed, "partition": Path(job.partition).name}
        self._states[_name(job)] = {**about, "state": state, **facts}

    def _done(self, job: Job, record: dict[str, Any]) -> None:
        self._set(job, "done")
        self.run.files[str(job.stem.with_suffix(".safetensors").relative_to(self.run.path))] = record["sha256"]
        for file in (job.stem.with_suffix(".json"), job.copy):
            if file.is_file():
                self.run.files[str(file.relative_to(self.run.path))] = sha256(file)

    def _note(self, soon: bool, **facts: Any) -> None:
        self.run.note(soon=soon, subnetworks=self._states, **facts)


class _Watching:
    def __init__(self, ledger: Ledger, progress: Progress):
        self.ledger, self.progress = ledger, progress

    def __getattr__(self, name: str) -> Any:
        return getattr(self.progress, name)

    def job_starts(self, title: str) -> None:
        self.ledger.starts(title)
        self.progress.job_starts(title)

    def job_ends(self, title: str) -> None:
        self.ledger.ends(title)
        self.progress.job_ends(title)


def _name(job: Job) -> str:
    return f"{job.key}/{job.cluster:05d}"
