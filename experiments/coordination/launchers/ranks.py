# SPDX-License-Identifier: MIT
"""The whole command on several nodes, started by torchrun or srun: every process trains, rank 0 coordinates as well.

Rank 0 alone opens the run folder, partitions, deals, evaluates and reports; the others never see more than jobs. They
meet in a key-value store (`torch.distributed.TCPStore`): rank 0 publishes jobs under numbers, and whoever is free takes
the next number, so that unequal sub-networks balance out. With `trainer.devices=k`, k ranks in succession are a group
that trains each of its jobs together. Run folder and data must lie where every node sees them under the same path.

torchrun (and srun with --kill-on-bad-exit) ends all ranks when one dies; what is finished is on disk, and the same
command, or torchrun's --max-restarts, goes on from the last epoch's checkpoints.
"""

import functools
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only as utilities_rank_zero_only
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from datamodules.errors import InputError
from datamodules.files import disk_error
from experiments.coordination.job import Job, Stack
from experiments.coordination.launchers.base import Launcher
from experiments.coordination.launchers.gpus import visible_gpus
from experiments.coordination.progress import Watcher
from experiments.coordination.stacking import train

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
TOGETHER_SECONDS = 60.0  # within which all ranks of a group must have failed, if it was the job's fault


class Ranks(Launcher):
    """Jobs on the processes that torchrun or srun has started.

    Args:
        started_by: "torchrun" or "slurm", whose environment variables say who is who.
    """

    def __init__(self, started_by: str = "torchrun"):
        if started_by not in ("torchrun", "slurm"):
            raise InputError(f"launcher.started_by = {started_by}", "torchrun or slurm", "correct it")
        self.started_by = started_by

    def at_once(self, devices: int) -> int:
        """Groups of this node; see `Launcher.at_once`."""
        return max(1, place(self.started_by).local_world // devices)

    def serve(self, devices: int) -> bool:
        """Joins the other ranks; any but rank 0 trains what it is given until rank 0 ends. See `Launcher.serve`."""
        group = _join(self.started_by, devices)
        if group.place.rank == 0:
            return False
        try:
            while (job := group.next_job(wait=True)) is not None:
                group.train(*job)
        except KeyboardInterrupt:
            sys.exit(130)  # rank 0 says what there is to say
        except dist.DistError as error:
            log.error("rank %d lost rank 0: %s", group.place.rank, error)
            sys.exit(1)
        return True

    def release(self) -> None:
        """Tells the others that no job will come; see `Launcher.release`."""
        for group in _joined:
            group.end()

    def run(self, jobs: Iterable[Job | Stack], progress: Watcher) -> dict[str, str]:
        """Deals the jobs to all ranks, this one too; see `Launcher.run`."""
        jobs = list(jobs)
        group = _join(self.started_by, jobs[0].recipe.trainer["devices"] if jobs else 1)
        waiting, failed = group.publish(jobs), {}

        def hear() -> None:
            for event in group.events():
                job = waiting[event["number"]]
                if event["kind"] == "starts":
                    progress.job_starts(job.title)
                elif event["kind"] == "epoch":
                    progress.epoch(job.title, event["done"], event["of"], event["values"])
                else:
                    if event["reason"]:
                        failed[job.identifier] = event["reason"]
                    del waiting[event["number"]]
                    progress.job_ends(job.title)

        try:
            while (mine := group.next_job(wait=False)) is not None:
                group.train(*mine, hear)
                hear()
            while waiting:
                hear()
                time.sleep(POLL_SECONDS)
        except BaseException:
            log.warning("not finished: %s", "; ".join(job.title for job in waiting.values()))
            raise
        return failed


@dataclass(frozen=True)
class Place:
    """Which of the started processes this is.

    Attributes:
        rank, world: its number among how many.
        local_rank, local_world: the same on its node.
        address, port: where rank 0 can be reached.
        hosted: whether the one who started us keeps the store, so that rank 0 must not.
        attempt: how often torchrun has restarted all of us.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    hosted: bool = False
    attempt: int = 0


@functools.cache
def place(started_by: str) -> Place:
    """Reads the environment variables of torchrun or SLURM, before this process changes them.

    Args:
        started_by: "torchrun" or "slurm".

    Raises:
        InputError: they are not there.
    """
    env = os.environ
    try:
        if started_by == "slurm":
            world, nodes = int(env["SLURM_NTASKS"]), int(env["SLURM_NNODES"])
            address = env.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(env["SLURM_NODELIST"])
            port = int(env.get("MASTER_PORT") or 15000 + int(env["SLURM_JOB_ID"]) % 10000)
            return Place(int(env["SLURM_PROCID"]), world, int(env["SLURM_LOCALID"]), world // nodes, address, port)
        return Place(
            int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"]), int(env["LOCAL_WORLD_SIZE"]),
            env["MASTER_ADDR"], int(env["MASTER_PORT"]), env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            int(env.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        how = "srun python -m ..." if started_by == "slurm" else "torchrun --nproc-per-node=2 -m ..."
        raise InputError(
            f"launcher={started_by} without its environment ({error})", f"a command that {started_by} started",
            f"{how}, or another launcher",
        ) from None  # fmt: skip


_joined: list["_Group"] = []


@functools.cache
def _join(started_by: str, devices: int) -> "_Group":
    _joined.append(_Group(place(started_by), devices))
    return _joined[-1]


class _Group:
    """The ranks that train a sub-network together, seen from one of them: member 0 takes jobs and tells of them."""

    def __init__(self, here: Place, devices: int):
        if here.world % devices or (here.local_world % devices and devices % here.local_world):
            raise InputError(
                f"trainer.devices = {devices} with {here.world} ranks, {here.local_world} on a node",
                "groups that fill nodes, or nodes that fill groups",
                "a divisor of the ranks of a node, or a multiple that divides all ranks",
            )
        self.place, self.devices = here, devices
        self.number, self.member = divmod(here.rank, devices)
        self.steps, self.heard = 0, 0
        self.ticket: int | None = None
        store = dist.TCPStore(here.address, here.port, None, here.rank == 0 and not here.hosted, wait_for_workers=False)
        self.store = dist.PrefixStore(f"clusterface/{here.attempt}", store)
        self._prepare_fits()

    def _prepare_fits(self) -> None:
        """What Lightning shall see from now on: the group alone, as torchrun would show it; for one rank nothing."""
        env, here = os.environ, self.place
        local = min(self.devices, here.local_world)
        first = here.local_rank - here.local_rank % local
        gpus = visible_gpus()
        if len(gpus) >= here.local_world:  # otherwise each process sees its own already
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + local])
        for name in [name for name in env if name.startswith("TORCHELASTIC_") and name != "TORCHELASTIC_ERROR_FILE"]:
            del env[name]
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"):
            env.pop(name, None)
        for decorator in (rank_zero_only, utilities_rank_zero_only):  # read at import from what is now deleted
            setattr(decorator, "rank", self.member)  # noqa: B010 an attribute that functions do not declare
        if self.devices == 1:
            return
        if self.member == 0:
            self.store.set(f"group/{self.number}", f"{_address_towards(here.address, here.port)}")
        address, port = self._read(f"group/{self.number}").rsplit(":", 1)
        env |= {
            "RANK": str(self.member), "WORLD_SIZE": str(self.devices), "TORCHELASTIC_RUN_ID": "clusterface",
            "LOCAL_RANK": str(here.local_rank - first), "LOCAL_WORLD_SIZE": str(local),
            "GROUP_RANK": str(self.member // local), "GROUP_WORLD_SIZE": str(self.devices // local),
            "MASTER_ADDR": address, "MASTER_PORT": port,
        }  # fmt: skip

    def publish(self, jobs: list[Job | Stack]) -> dict[int, Job | Stack]:
        """Makes jobs known to all ranks: number -> job."""
        before = self.store.add("published", 0)
        numbered = {before + i: job for i, job in enumerate(jobs, 1)}
        for number, job in numbered.items():
            self.store.set(f"job/{number}", job.to_json())
        self.store.add("published", len(jobs))
        return numbered

    def next_job(self, wait: bool) -> tuple[int, Job | Stack] | None:
        """The next job of this group.

        Args:
            wait: for jobs not published yet, until rank 0 ends; otherwise None where all are taken.
        """
        key = f"group/{self.number}/{self.steps}"
        if self.member == 0:
            # A number that is not published yet is kept: nobody else will take it.
            self.ticket = self.ticket or self.store.add("taken", 1)
            while self.ticket > self.store.add("published", 0):
                if not wait:
                    return None
                if self.store.check(["end"]):
                    self._bye()
                    return None
                time.sleep(POLL_SECONDS)
            number, self.ticket = self.ticket, None
            if self.devices > 1:
                self.store.set(key, str(number))
        else:
            while not self.store.check([key]):
                if self.store.check(["end"]):
                    self._bye()
                    return None
                time.sleep(POLL_SECONDS)
            number = int(self.store.get(key))
        self.steps += 1
        job = Job.from_json(self.store.get(f"job/{number}").decode())
        _log_to(Path(job.run_folder) / "log.txt", self.place.rank)
        return number, job

    def train(self, number: int, job: Job | Stack, after_epoch: Callable[[], None] | None = None) -> None:
        """Trains a job and tells rank 0 of it; one that fails does not cost the rank's other jobs.

        Args:
            number: of the job.
            job: what to train.
            after_epoch: called after each epoch.
        """
        tell = partial(self._tell, number=number)
        tell(kind="starts")

        def report(done: int, of: int, values: dict[str, float]) -> None:
            plain = {key: value for key, value in values.items() if value == value and abs(value) != float("inf")}
            tell(kind="epoch", done=done, of=of, values=plain)
            if after_epoch is not None:
                after_epoch()

        reason = ""
        try:
            train(job, report)
        except Exception as error:
            if (disk := disk_error(error)) is not None:
                raise disk from error
            log.exception("%s failed", job.title)
            if (disk := disk_error(error)) is not None:
                raise disk from None  # the next job would meet the same disk
            if self.devices > 1 and not self._all_failed(number):
                raise  # the others wait for this rank in a collective operation: end it for all
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        tell(kind="done", reason=reason)

    def events(self) -> Iterable[dict]:
        """What the groups have told since the last call."""
        while self.store.check([f"event/{self.heard + 1}"]):
            self.heard += 1
            yield json.loads(self.store.get(f"event/{self.heard}"))
            self.store.delete_key(f"event/{self.heard}")

    def end(self) -> None:
        """Tells all ranks that no more jobs come; where this rank keeps the store, waits until they have read it."""
        self.store.set("end", "")
        others, deadline = 0 if self.place.hosted else self.place.world - 1, time.monotonic() + 10
        while self.store.add("gone", 0) < others and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _bye(self) -> None:
        self.store.add("gone", 1)

    def _tell(self, **event: object) -> None:
        if self.member == 0:
            self.store.set(f"event/{self.store.add('told', 1)}", json.dumps(event))

    def _all_failed(self, number: int) -> bool:
        key, deadline = f"failed/{number}", time.monotonic() + TOGETHER_SECONDS
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.devices and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.store.add(key, 0) == self.devices

    def _read(self, key: str) -> str:
        while not self.store.check([key]):
            time.sleep(POLL_SECONDS)
        return self.store.get(key).decode()


def _address_towards(host: str, port: int) -> str:
    """This machine's address on the way to a host, and a free port: `address:port`."""
    family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe, socket.socket(family) as free:
        probe.connect(target)  # sends nothing: it only chooses the interface
        address = probe.getsockname()[0]
        free.bind((address, 0))
        return f"{address}:{free.getsockname()[1]}"


@functools.cache
def _log_to(file: Path, rank: int) -> None:
    if rank == 0:
        return  # the run folder's own handler writes
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s %(name)s: rank {rank}: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO) if root.level else logging.INFO)
