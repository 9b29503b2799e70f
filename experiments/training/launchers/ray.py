# SPDX-License-Identifier: MIT
"""Jobs on a Ray cluster of many machines; Ray places jobs, retries them and handles lost nodes.

Run folder and data must have the same path on every node.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterable

from datamodules.errors import InputError
from datamodules.files import disk_error
from experiments.training.job import Job, Training, TrainingByEntry, failure_line
from experiments.training.launchers.base import Launcher
from experiments.training.progress import Watcher

log = logging.getLogger(__name__)


class Ray(Launcher):
    """One Ray task per sub-network; a lost node's tasks run elsewhere and go on from their last checkpoint.

    Args:
        address: address of the cluster, such as "auto" or "ray://head:10001"; None starts a local one.
        num_gpus: GPUs per job; a share lets several small sub-networks use one GPU, and a job on k devices takes k.
        num_cpus: CPU cores, and threads, per job.
        retries: how often Ray tries a job again after its worker or node died.
    """

    def __init__(self, address: str | None = None, num_gpus: float = 0, num_cpus: int = 1, retries: int = 2):
        if num_gpus < 0 or num_cpus < 1 or retries < 0:
            got = f"num_gpus = {num_gpus}, num_cpus = {num_cpus}, retries = {retries}"
            raise InputError(got, "num_gpus >= 0, num_cpus >= 1, retries >= 0", "correct the launcher's arguments")
        self.address, self.num_gpus, self.num_cpus, self.retries = address, num_gpus, num_cpus, retries

    def at_once(self, devices: int) -> int:
        """As many as this machine has cores for; other nodes of a cluster do not count."""
        return max(1, (os.cpu_count() or 1) // self.num_cpus)

    def on_one_gpu(self, devices: int, jobs: int) -> int:
        """As many as their shares allow; Ray fills one GPU before the next."""
        return min(jobs, int(1 / self.num_gpus)) if 0 < self.num_gpus < 1 else 1

    def _refuse_what_never_starts(self, cluster: dict[str, float]) -> None:
        for name, wanted in (("GPU", self.num_gpus), ("CPU", self.num_cpus)):
            if self.address is None and wanted > cluster.get(name, 0):
                raise InputError(
                    f"launcher.num_{name.lower()}s = {wanted} per job", f"at most the {cluster.get(name, 0):g} here",
                    f"a smaller launcher.num_{name.lower()}s, or the address of a cluster",
                )  # fmt: skip

    def run(self, jobs: Iterable[Job], watcher: Watcher, train: Training | None = None) -> dict[str, str]:
        """Submits every job and waits; the watcher hears of sub-networks, not of epochs."""
        try:
            import ray
        except ImportError:
            raise InputError("launcher=ray without ray", "the package", "pip install -e '.[ray]'") from None

        started_here = not ray.is_initialized()
        if started_here:
            # Workers import our packages from where the coordinator runs, and split the cores as num_cpus says.
            path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
            environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(self.num_cpus)}
            on_term = signal.getsignal(signal.SIGTERM)
            ray.init(
                address=self.address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR,
                runtime_env={"env_vars": environment},
            )  # fmt: skip
            if on_term is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_term)  # Ray has put one in its place that aborts the process
        try:
            self._refuse_what_never_starts(ray.cluster_resources())
            task = ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=self.retries)(_train)
            waiting = {}
            for job in jobs:
                waiting[task.remote(job.to_json())] = job
                watcher.job_starts(job)
            failed = {}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                try:
                    reason = ray.get(done)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None)
                    reason = failure_line(cause if cause and disk_error(cause) else error)
                if reason:
                    failed[job.identifier] = reason
                watcher.job_ends(job, reason or None)
            return failed
        finally:
            if started_here:
                ray.shutdown()


def _train(text: str) -> str:
    # Ray must retry a lost worker, not an exception of ours: that is returned.
    from experiments.training.launchers.processes import Processes

    job = Job.from_json(text)
    try:
        if job.recipe.trainer["devices"] > 1:  # a group of processes on the task's node, with the task's GPUs
            failed = Processes(workers=1, retries=0).run([job], Watcher())
            return failed.get(job.identifier, "")
        TrainingByEntry()(job)
    except Exception as error:
        return failure_line(error)
    return ""
