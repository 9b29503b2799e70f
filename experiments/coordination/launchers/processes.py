# SPDX-License-Identifier: MIT
"""One or several worker processes per device, or a group of processes that train a sub-network together with DDP."""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from torch.distributed.elastic.utils.distributed import get_free_port

from datamodules.errors import DiskError, InputError
from experiments.coordination.job import Job
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.launchers.gpus import visible_gpus
from experiments.coordination.progress import Watcher

log = logging.getLogger(__name__)


class Processes(Launcher):
    """Workers take jobs from one queue, so that unequal sub-networks balance out, and train many each.

    With `trainer.devices=k` a worker is a group of k processes that stays together over all its jobs: joining costs
    once what Lightning's own launcher, which starts the whole command again for every fit, would cost each time.
    A worker that dies (killed, out of memory) is replaced; its job goes on from its last checkpoint, and counts as
    failed after `retries` more deaths.

    Args:
        workers: number of workers; None takes `per_gpu` for each GPU, or one for each CPU core without a GPU, divided
            by the devices of a worker.
        per_gpu: workers that share a GPU, for sub-networks too small to fill it: each worker sees its one GPU and holds
            its own memory there. Without a GPU, and beside a number of `workers`, it does nothing.
        threads: CPU threads of each process; None divides the cores.
        retries: times a job is tried again after its worker died.
    """

    def __init__(self, workers: int | None = None, per_gpu: int = 1, threads: int | None = None, retries: int = 2):
        self.workers, self.per_gpu, self.threads, self.retries = workers, per_gpu, threads, retries
        for name, least in (("workers", 1), ("per_gpu", 1), ("threads", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"launcher.{name} = {value}", f"at least {least}", f"correct launcher.{name}")

    def at_once(self, devices: int) -> int:
        return self.workers or max(1, (len(visible_gpus()) * self.per_gpu or os.cpu_count() or 1) // devices)

    def on_one_gpu(self, devices: int, jobs: int) -> int:
        """The workers are dealt to the GPUs in turn; see `Launcher.on_one_gpu`."""
        return -(-min(self.at_once(devices), jobs) * devices // max(1, len(visible_gpus())))

    def run(self, jobs: Iterable[Job], progress: Watcher) -> dict[str, str]:
        jobs = list(jobs)
        ranks = jobs[0].recipe.trainer["devices"] if jobs else 1
        cores, gpus = os.cpu_count() or 1, visible_gpus()
        workers = min(self.at_once(ranks), max(len(jobs), 1))
        threads = self.threads or max(1, cores // (workers * ranks))
        work = _Work(jobs, self.retries, progress)
        places = []
        for number in range(workers):
            mine = [gpus[(number * ranks + rank) % len(gpus)] for rank in range(ranks)] if gpus else []
            places.append(_Place(work, ranks, threads, mine))
        log.info("%d workers of %d processes with %d threads each, GPUs %s", workers, ranks, threads, gpus or "none")
        for place in places:
            place.start()
        try:
            while any(place.is_alive() for place in places) and not any(place.error for place in places):
                time.sleep(0.05)  # a join without limit would not let Ctrl-C through
        finally:
            work.stop.set()
            for place in places:
                place.kill()
        for place in places:
            if place.error:
                raise place.error
        return work.failed


class _Work:
    """What the places share: jobs to do, jobs that failed, and who is told."""

    def __init__(self, jobs: list[Job], retries: int, progress: Watcher):
        self.waiting: queue.SimpleQueue[tuple[Job, int]] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put((job, retries))
        self.failed: dict[str, str] = {}
        self.progress, self.lock, self.stop = progress, threading.Lock(), threading.Event()


class _Place(threading.Thread):
    """Keeps one worker alive and busy."""

    def __init__(self, work: _Work, ranks: int, threads: int, gpus: list[str]):
        super().__init__(daemon=True)
        self.work, self.ranks, self.threads, self.gpus = work, ranks, threads, gpus
        self.group: list[subprocess.Popen] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.work.stop.is_set():
                try:
                    job, tries = self.work.waiting.get_nowait()
                except queue.Empty:
                    break
                self._train(job, tries)
            self._release()
        except BaseException as error:  # a thread's exception would be lost
            self.error = error

    def _train(self, job: Job, tries: int) -> None:
        work = self.work
        with work.lock:
            work.progress.job_starts(job.title)
        reason = self._ask(job)
        if work.stop.is_set():
            return
        if reason is None and tries > 0:
            log.warning("the worker of %s died; it goes on in a new one, %d tries left", job.title, tries)
            work.waiting.put((job, tries - 1))
            return
        with work.lock:
            if reason != "":
                work.failed[job.identifier] = reason or "the worker died (killed, or out of memory); see log.txt"
            work.progress.job_ends(job.title)

    def _ask(self, job: Job) -> str | None:
        """Empty where the job is done, why it failed, or None where the worker died."""
        if not self.group or any(process.poll() is not None for process in self.group):
            self.kill()
            self.group = self._start(Path(job.run_folder) / "log.txt")
        try:
            for process in self.group:
                process.stdin.write(job.to_json() + "\n")
                process.stdin.flush()
            for line in self.group[0].stdout:
                event = json.loads(line)
                if event["event"] == "epoch":
                    with self.work.lock:
                        self.work.progress.epoch(job.title, event["done"], event["of"], event["values"])
                elif event["event"] == "disk":
                    raise DiskError(event["got"], event["expected"], event["cure"])
                elif event["event"] == "failed" and self.ranks > 1:
                    died = self._one_died()
                    self.kill()  # the others of the group may wait for the one that failed
                    return None if died else event["reason"]
                elif event["event"] in ("done", "failed"):
                    return event.get("reason", "")
        except (BrokenPipeError, json.JSONDecodeError):
            pass
        self.kill()
        return None

    def _one_died(self) -> bool:
        """Whether a process of the group was killed: rank 0 then fails because of it, and the job deserves a retry."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if any(process.poll() not in (None, 0) for process in self.group[1:]):
                return True
            time.sleep(0.05)
        return False

    def _start(self, log_file: Path) -> list[subprocess.Popen]:
        port = get_free_port()
        group = []
        for rank in range(self.ranks):
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
            if self.gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
            if self.ranks > 1:  # what torchrun sets: Lightning then joins the group and starts nothing itself
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.ranks),
                    "LOCAL_WORLD_SIZE": str(self.ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "clusterface",
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            with open(log_file, "a") as output:
                # Its own session: Ctrl-C reaches the coordinator alone, which then ends its workers.
                group.append(subprocess.Popen(
                    [sys.executable, "-m", "experiments.coordination.worker"], env=environment, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL, stderr=output,
                    start_new_session=True,
                ))  # fmt: skip
        return group

    def _release(self) -> None:
        """Lets an idle worker end by itself, so that a tracker can finish."""
        for process in self.group:
            process.stdin.close()
        for process in self.group:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        self.group = []

    def kill(self) -> None:
        """Ends the worker at once; what it has finished is on disk."""
        for process in self.group:
            process.kill()
            process.wait()
        self.group = []
