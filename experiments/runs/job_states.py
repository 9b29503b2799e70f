# SPDX-License-Identifier: MIT
"""The state of every sub-network of a run, in the run's manifest."""

from pathlib import Path
from typing import Any

from datamodules.files import sha256
from experiments.runs.run_folder import RunFolder
from experiments.training.job import Job
from experiments.training.progress import Watcher


class JobStates(Watcher):
    """Notes each sub-network as pending, training, done or failed, by `Job.identifier`, as soon as that changes.

    The files of a job decide whether it is finished; the manifest, written after them, repeats it for other readers.

    Attributes:
        missing: jobs to train: those that are not finished, or whose files are damaged.
        failed: title and reason of jobs that failed, by `Job.identifier`.
    """

    def __init__(self, run: RunFolder, jobs: list[Job]):
        self.run, self.missing = run, []
        self.failed: dict[str, tuple[str, str]] = {}
        self._states: dict[str, dict[str, Any]] = dict(run.manifest.get("subnetworks", {}))
        for job in jobs:
            record = job.record()
            if record is None:
                self.missing.append(job)
                self._set(job, "pending")
            else:
                self._done(job, record)
                job.tidy()  # its process may have been killed before it did so
        self._note(soon=False)

    def job_starts(self, job: Job) -> None:
        self._set(job, "training")
        self._note()

    def job_ends(self, job: Job, failure: str | None) -> None:
        if failure is not None:
            self.failed[job.identifier] = job.title, failure
            self._set(job, "failed", reason=failure)
        elif (record := job.record()) is not None:
            self._done(job, record)
        self._note(soon=False)

    def _note(self, soon: bool = True) -> None:
        self.run.note(soon=soon, subnetworks=self._states, failed=dict(self.failed.values()))

    def _set(self, job: Job, state: str, **facts: Any) -> None:
        about = {"title": job.title, "seed": job.recipe.seed, "partition": Path(job.partition).name}
        file = str(job.stem.relative_to(self.run.path))
        self._states[job.identifier] = {**about, "file": file, "state": state, **facts}

    def _done(self, job: Job, record: dict[str, Any]) -> None:
        self._set(job, "done")
        weights, about = (job.stem.with_suffix(suffix) for suffix in (".safetensors", ".json"))
        self.run.files[str(weights.relative_to(self.run.path))] = record["sha256"]
        self.run.files[str(about.relative_to(self.run.path))] = sha256(about)
