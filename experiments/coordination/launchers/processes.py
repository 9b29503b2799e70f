# SPDX-License-Identifier: MIT
"""One worker process per device; each trains many sub-networks."""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from datamodules.errors import InputError
from experiments.coordination.job import Job
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.progress import Progress

log = logging.getLogger(__name__)


class Processes(Launcher):
    """Workers take jobs from one queue, so that unequal sub-networks balance out.

    A worker that dies (killed, out of memory) is replaced; its job goes on from its last checkpoint, and counts as
    failed after `retries` more deaths.

    Args:
        workers: number of processes; None takes one per GPU, or per CPU core where there is none.
        threads: CPU threads of each; None divides the cores.
        retries: times a job is tried again after its worker died.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None, retries: int = 2):
        for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
            if value is not None and value < least:
                raise InputError(f"launcher.{name} = {value}", f"at least {least}", f"correct launcher.{name}")
        self.workers, self.threads, self.retries = workers, threads, retries

    def run(self, jobs: Iterable[Job], progress: Progress) -> dict[str, str]:
        """Hands the jobs to the workers, largest waiting time first in the order given; see `Launcher.run`."""
        waiting: queue.SimpleQueue[tuple[Job, int]] = queue.SimpleQueue()
        count = 0
        for job in jobs:
            waiting.put((job, self.retries))
            count += 1
        gpus = _visible_gpus()
        workers = min(self.workers or len(gpus) or os.cpu_count() or 1, max(count, 1))
        threads = self.threads or max(1, (os.cpu_count() or 1) // workers)
        failed: dict[str, str] = {}
        lock, stop = threading.Lock(), threading.Event()
        places = [
            _Place(waiting, failed, progress, lock, stop, threads, gpus[i % len(gpus)] if gpus else None)
            for i in range(workers)
        ]
        log.info("%d workers with %d threads each, GPUs %s", workers, threads, gpus or "none")
        for place in places:
            place.start()
        try:
            for place in places:
                while place.is_alive():  # a join without limit would not let Ctrl-C through
                    place.join(0.2)
        except BaseException:
            stop.set()
            for place in places:
                place.end()
            raise
        for place in places:
            if place.error:
                raise place.error
        return failed


class _Place(threading.Thread):
    """Keeps one worker alive and busy."""

    def __init__(self, waiting, failed, progress, lock, stop, threads, gpu):
        super().__init__(daemon=True)
        self.waiting, self.failed, self.progress, self.lock, self.stop = waiting, failed, progress, lock, stop
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if gpu is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.worker: subprocess.Popen | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    job, tries = self.waiting.get_nowait()
                except queue.Empty:
                    break
                self._train(job, tries)
        except BaseException as error:  # a thread's exception would be lost
            self.error = error
        finally:
            self.end()

    def _train(self, job: Job, tries: int) -> None:
        with self.lock:
            self.progress.job_starts(job.title)
        reason = self._ask(job)
        if self.stop.is_set():
            return
        if reason is None and tries > 0:
            log.warning("the worker of %s died; it goes on in a new one, %d tries left", job.title, tries)
            self.waiting.put((job, tries - 1))
            return
        with self.lock:
            if reason != "":
                self.failed[job.title] = reason or "the worker died (killed, or out of memory); see log.txt"
            self.progress.job_ends(job.title)

    def _ask(self, job: Job) -> str | None:
        """Empty where the job is done, why it failed, or None where the worker died."""
        worker = self._alive(Path(job.run_folder) / "log.txt")
        try:
            worker.stdin.write(job.to_json() + "\n")
            worker.stdin.flush()
            for line in worker.stdout:
                event = json.loads(line)
                if event["event"] == "epoch":
                    with self.lock:
                        self.progress.epoch(job.title, event["done"], event["of"], event["values"])
                elif event["event"] in ("done", "failed"):
                    return event.get("reason", "")
        except (BrokenPipeError, json.JSONDecodeError):
            pass
        worker.kill()
        worker.wait()
        return None

    def _alive(self, log_file: Path) -> subprocess.Popen:
        if self.worker is None or self.worker.poll() is not None:
            with open(log_file, "a") as output:
                # Its own session: Ctrl-C reaches the coordinator alone, which then ends its workers.
                self.worker = subprocess.Popen(
                    [sys.executable, "-m", "experiments.coordination.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    text=True,
                    env=self.environment,
                    start_new_session=True,
                )
        return self.worker

    def end(self) -> None:
        """Ends the worker; what it has finished is on disk."""
        if self.worker is not None and self.worker.poll() is None:
            self.worker.stdin.close()
            try:
                self.worker.wait(timeout=0 if self.stop.is_set() else 20)
            except subprocess.TimeoutExpired:
                self.worker.kill()
                self.worker.wait()


def _visible_gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [part for part in named.split(",") if part]
    return [str(i) for i in range(torch.cuda.device_count())]
