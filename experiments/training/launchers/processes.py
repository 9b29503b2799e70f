# SPDX-License-Identifier: MIT
"""Worker processes, one or several per device, or groups of processes that train a sub-network together with DDP."""

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

import torch
from torch.distributed.elastic.utils.distributed import get_free_port

from datamodules.errors import DiskError, InputError
from experiments.training.job import Job, Training
from experiments.training.launchers.base import Launcher
from experiments.training.progress import Watcher

log = logging.getLogger(__name__)


def visible_gpus() -> list[str]:
    """The visible GPUs as CUDA_VISIBLE_DEVICES names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [part for part in named.split(",") if part]
    return [str(i) for i in range(torch.cuda.device_count())]


class Processes(Launcher):
    """Workers take jobs from one queue, so that sub-networks of different sizes balance, and train many each.

    With `trainer.devices=k` a worker is a group of k processes that stays together for all its jobs. A worker that dies
    (killed, out of memory) is replaced; its job goes on from its last checkpoint.

    Args:
        workers: number of workers; None takes `per_gpu` for each GPU, or one for each CPU core if there is no GPU,
            divided by the devices of a worker.
        per_gpu: workers that share a GPU, for sub-networks too small to fill it. It has no effect without a GPU or
            with a number of `workers`.
        threads: CPU threads of each process; None divides the cores.
        retries: how often a job is tried again after its worker died.
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
        return -(-min(self.at_once(devices), jobs) * devices // max(1, len(visible_gpus())))

    def run(self, jobs: Iterable[Job], watcher: Watcher, train: Training | None = None) -> dict[str, str]:
        jobs = list(jobs)
        ranks = jobs[0].recipe.trainer["devices"] if jobs else 1
        cores, gpus = os.cpu_count() or 1, visible_gpus()
        workers = min(self.at_once(ranks), max(len(jobs), 1))
        threads = self.threads or max(1, cores // (workers * ranks))
        work = _Queue(jobs, self.retries, watcher)
        pool = []
        for number in range(workers):
            mine = [gpus[(number * ranks + rank) % len(gpus)] for rank in range(ranks)] if gpus else []
            pool.append(_WorkerThread(work, ranks, threads, mine))
        log.info("%d workers of %d processes with %d threads each, GPUs %s", workers, ranks, threads, gpus or "none")
        for thread in pool:
            thread.start()
        try:
            while any(thread.is_alive() for thread in pool) and not any(thread.error for thread in pool):
                time.sleep(0.05)  # a join without limit would not let Ctrl-C through
        finally:
            work.stop.set()
            for thread in pool:
                thread.kill()
        for thread in pool:
            if thread.error:
                raise thread.error
        return work.failed


class _Queue:
    """The jobs to do and the jobs that failed, shared by the threads."""

    def __init__(self, jobs: list[Job], retries: int, watcher: Watcher):
        self.waiting: queue.SimpleQueue[tuple[Job, int]] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put((job, retries))
        self.failed: dict[str, str] = {}
        self.watcher, self.lock, self.stop = watcher, threading.Lock(), threading.Event()


class _WorkerThread(threading.Thread):
    """Gives jobs to one worker, and replaces it if it dies."""

    def __init__(self, work: _Queue, ranks: int, threads: int, gpus: list[str]):
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
            work.watcher.job_starts(job)
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
            work.watcher.job_ends(job, work.failed.get(job.identifier))

    def _ask(self, job: Job) -> str | None:
        """Empty if the job is done, the reason if it failed, None if the worker died."""
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
                        self.work.watcher.epoch(job, event["done"], event["of"], event["values"])
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
        """Whether a process of the group was killed: then rank 0 fails too, and the job is tried again."""
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
            if self.ranks > 1:  # as torchrun sets them: Lightning then joins the group and starts no processes
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.ranks),
                    "LOCAL_WORLD_SIZE": str(self.ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "clusterface",
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            with open(log_file, "a") as output:
                # In a session of its own, so that Ctrl-C reaches only the coordinator, which ends its workers.
                group.append(subprocess.Popen(
                    [sys.executable, "-m", "experiments.training.worker"], env=environment, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL, stderr=output,
                    start_new_session=True,
                ))  # fmt: skip
        return group

    def _release(self) -> None:
        """Lets an idle worker end by itself, so that its tracking can finish."""
        for process in self.group:
            process.stdin.close()
        for process in self.group:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
        self.group = []

    def kill(self) -> None:
        """Ends the worker at once; its finished jobs are on disk."""
        for process in self.group:
            process.kill()
            process.wait()
        self.group = []
