# SPDX-License-Identifier: MIT
"""The faults: each disturbs a trial in its own way; everything random comes from the generator it is given."""

import errno
import importlib.util
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.injection import die_after_checkpoint, die_at, refuse_from
from tests.faults.trial import EPOCHS, Trial

TWO_WORKERS = ("launcher=processes", "launcher.workers=2", "launcher.threads=1")
TWO_RANKS = (
    "launcher=processes",
    "launcher.workers=1",
    "launcher.threads=1",
    "trainer.devices=2",
    "trainer.strategy=ddp",
)
CATEGORIES = (
    "subnetworks/*/*.epoch-*", "subnetworks/*/?????.safetensors", "subnetworks/*/*.json", "partitions/*/*",
    "manifest.json", "config.yaml", "cells/*", "results.csv", "details/*", "log.txt",
)  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """What faults need to know of a run without any.

    Attributes:
        seconds: it took.
        steps: it took on its files.
        bytes: on disk.
    """

    seconds: float
    steps: int
    bytes: int


Fault = Callable[[Trial, random.Random, Undisturbed], str]
"""Disturbs a run and lifts the cause, if it lasts; says in a few words what was done."""


def kill_at_a_time(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL, anywhere."""
    seconds = rng.uniform(0, usual.seconds)
    process = trial.start()
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    trial.end(process)
    return f"SIGKILL after {seconds:.2f} s"


def kill_at_a_step(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL between two operations on files: at each step of a save, sooner or later."""
    step, half = rng.randrange(usual.steps), rng.random() < 0.5
    trial.end(trial.start(prepare=partial(die_at, trial.run, step, half)))
    return f"SIGKILL at step {step} of {usual.steps}{', a file half-written' if half else ''}"


def fill_the_disk(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """No room: on a small file system of its own where one may be mounted, else from a step on."""
    size = rng.randint(usual.bytes // 8, usual.bytes * 3 // 4) // 4096 * 4096
    if _mount(trial.run.parent, f"size={size}"):
        try:
            trial.expect_stop(trial.start(), 2, "cure: make room")  # the capacity check, or the disk
            subprocess.run(["mount", "-o", "remount,size=64m", trial.run.parent], check=True)
            _copy_out(trial)
        finally:
            subprocess.run(["umount", "-l", trial.run.parent], check=False, capture_output=True)
        _move_back(trial)
        return f"no room beyond {size >> 10} KiB"
    return refuse(errno.ENOSPC, trial, rng, usual)


def refuse(number: int, trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """From a step on, the disk refuses."""
    step = rng.randrange(usual.steps)
    process = trial.start(prepare=partial(refuse_from, trial.run, step, number))
    trial.expect_stop(process, 2, os.strerror(number))
    return f"{os.strerror(number)} from step {step} of {usual.steps}"


def make_read_only(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """The folder cannot be changed any more: from the start or from a step on."""
    if rng.random() < 0.3 and _mount(trial.run.parent, "ro"):
        try:
            trial.expect_stop(trial.start(), 2, "Read-only", "cure: ")
        finally:
            subprocess.run(["umount", trial.run.parent], check=True)
        return "read-only from the start"
    return refuse(errno.EROFS, trial, rng, usual)


def damage(how: str, trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """A file of a stopped or finished run is truncated, or one of its bits is flipped.

    A finished sub-network whose weights or record it hits is `Trial.damaged`: it is trained again.
    """
    finished = rng.random() < 0.4
    checkpoints = rng.randint(1, 3 * (EPOCHS - 1))
    prepare = None if finished else partial(die_after_checkpoint, trial.run, checkpoints)
    trial.end(trial.start(prepare=prepare))
    categories = [sorted(trial.run.glob(pattern)) for pattern in CATEGORIES]
    file = rng.choice(rng.choice([files for files in categories if files]))
    content = bytearray(file.read_bytes())
    place = rng.randrange(max(8 * len(content), 1))
    if how == "truncate":
        content = content[: place // 8]
    elif content:
        content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    if file.parent.parent.name == "subnetworks" and ".epoch-" not in file.name:
        trial.damaged = f"{file.parent.name}/{int(file.stem)}"
    when = "the finished run" if finished else f"a run stopped after {checkpoints} checkpoints"
    return f"{how} {file.relative_to(trial.run)} at bit {place} of {when}"


def stop(trial: Trial, rng: random.Random, usual: Undisturbed, launcher: tuple[str, ...] = ()) -> str:
    """Ctrl-C or SIGTERM while training."""
    number, epochs = rng.choice([signal.SIGINT, signal.SIGTERM]), rng.randint(1, 3 * EPOCHS - 1)
    process = trial.start(*launcher)
    trial.wait_for_epochs(process, epochs)
    os.kill(process, number)
    trial.expect_stop(process, 130, "repeat the command to go on")
    return f"{number.name} in epoch {epochs} of {3 * EPOCHS} {' '.join(launcher)}".rstrip()


def kill_a_worker(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL to one of two worker processes: its job goes on in a new one."""
    epochs = rng.randint(1, 2 * EPOCHS)
    process = trial.start(*TWO_WORKERS)
    worker = trial.wait_for_epochs(process, epochs)[-1]
    _kill(worker)
    trial.expect_stop(process, 0)
    return f"SIGKILL to a worker in epoch {epochs} of {3 * EPOCHS}"


def kill_above_workers(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL to the coordinator of two workers: they must end, and not disturb whoever resumes."""
    epochs = rng.randint(2, 3 * EPOCHS - 2)
    process = trial.start(*TWO_WORKERS)
    trial.wait_for_epochs(process, epochs)
    os.kill(process, signal.SIGKILL)
    trial.end(process)
    return f"SIGKILL to the coordinator of two workers in epoch {epochs} of {3 * EPOCHS}"


def kill_a_rank(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL to one of two ranks that train a sub-network together."""
    epochs, rank = rng.randint(1, 3 * EPOCHS - 2), rng.randrange(2)
    process = trial.start(*TWO_RANKS)
    first = trial.wait_for_epochs(process, epochs)[-1]
    ranks = {0: [first], 1: [child for child in _children(process) if child != first]}
    _kill(ranks[rank][-1])
    trial.expect_stop(process, 0)
    return f"SIGKILL to rank {rank} of two in epoch {epochs} of {3 * EPOCHS}"


def kill_a_ray_worker(trial: Trial, rng: random.Random, usual: Undisturbed) -> str:
    """SIGKILL to a worker of Ray, which tries its task again."""
    epochs = rng.randint(1, 2 * EPOCHS)
    process = trial.start("launcher=ray")
    _kill(trial.wait_for_epochs(process, epochs)[-1])
    trial.expect_stop(process, 0)
    return f"SIGKILL to a Ray worker in epoch {epochs} of {3 * EPOCHS}"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: for people.
        fault: the function.
        share: how often it is drawn, beside the others.
        bound: epochs that may be trained twice, one per worker that was stopped; those of `Trial.damaged` do not count.
        same_weights: whether weights must be equal bit for bit.
    """

    name: str
    fault: Fault
    share: int = 10
    bound: int = 1
    same_weights: bool = True


KINDS = (
    Kind("kill at a time", kill_at_a_time, 20),
    Kind("kill at a step", kill_at_a_step, 30),
    Kind("full disk", fill_the_disk),
    Kind("read-only", make_read_only),
    Kind("truncate", partial(damage, "truncate"), 15),
    Kind("flip a bit", partial(damage, "flip"), 15),
    Kind("stop", stop, 8),
    Kind("refused by the disk", partial(refuse, errno.ENOSPC)),
    Kind("kill a worker", kill_a_worker, 3),
    Kind("kill above workers", kill_above_workers, 3, bound=2),
    Kind("kill a rank", kill_a_rank, 2, same_weights=False),
    Kind("kill a Ray worker", kill_a_ray_worker, 2),
    Kind("stop two workers", partial(stop, launcher=TWO_WORKERS), 2, bound=2),
    Kind("stop two ranks", partial(stop, launcher=TWO_RANKS), 1, same_weights=False),
    Kind("stop Ray", partial(stop, launcher=("launcher=ray",)), 1, bound=os.cpu_count() or 1),
)


def plan(number: int, seed: int) -> list[Kind]:
    """The kinds of so many faults: each once, then drawn by their shares; without Ray where it is not installed."""
    kinds = [kind for kind in KINDS if "Ray" not in kind.name or importlib.util.find_spec("ray")]
    drawn = random.Random(f"plan {seed}").choices(kinds, [kind.share for kind in kinds], k=max(number - len(kinds), 0))
    return [*kinds, *drawn][:number]


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it had finished


def _children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


def _mount(folder: Path, options: str) -> bool:
    folder.mkdir(parents=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


def _copy_out(trial: Trial) -> None:
    subprocess.run(["cp", "-a", f"{trial.run.parent}/.", trial.folder / "saved"], check=True)


def _move_back(trial: Trial) -> None:
    trial.run.parent.rmdir()
    (trial.folder / "saved").rename(trial.run.parent)
