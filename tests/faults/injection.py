# SPDX-License-Identifier: MIT
"""What goes wrong inside a coordinator: at a chosen step of its work on the run folder it dies, or the disk refuses.

Python announces every opening, renaming, removing and making of files before it happens (audit events); the steps of a
save are such events, so that no code of the project needs to know of the drill.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

STEPS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir", "os.listdir", "os.scandir",
    "tempfile.mkstemp", "tempfile.mkdtemp", "shutil.rmtree",
}  # fmt: skip
WRITES = STEPS - {"os.listdir", "os.scandir"}
TAKES_ROOM = {"open", "os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"}


def at_steps(folder: Path, act: Callable[[int, str, tuple], None]) -> None:
    """Calls a function before every step that this process takes in a folder, for the rest of its life.

    Args:
        folder: whose files count; what lies beside it does not.
        act: called with the number of the step from 0, the event and its arguments. What it raises, the step raises.
    """
    inside, count = f"{folder}{os.sep}", 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in STEPS and arguments and isinstance(arguments[0], (str, os.PathLike)):
            if f"{os.fspath(arguments[0])}{os.sep}".startswith(inside):
                count += 1
                act(count - 1, event, arguments)

    sys.addaudithook(hook)


def _writes(event: str, arguments: tuple) -> bool:
    if event != "open":
        return event in WRITES
    mode, flags = arguments[1], arguments[2] or 0
    return any(letter in (mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def die_at(folder: Path, step: int, half: bool = False) -> None:
    """Kills this process at a step.

    Args:
        folder: see `at_steps`.
        step: number of the step.
        half: leave a temporary file that is about to be synced half-written.
    """

    def act(number: int, event: str, arguments: tuple) -> None:
        if number == step:
            path = str(arguments[0])
            if half and event == "open" and path.endswith(".tmp") and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    at_steps(folder, act)


def die_after_checkpoint(folder: Path, number: int) -> None:
    """Kills this process as soon as it has written so many checkpoints: no epoch is under way then.

    Args:
        folder: see `at_steps`.
        number: of checkpoints.
    """
    left = number

    def act(step: int, event: str, arguments: tuple) -> None:
        nonlocal left
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= event == "os.rename" and ".epoch-" in str(arguments[1])

    at_steps(folder, act)


def refuse_from(folder: Path, step: int, number: int) -> None:
    """From a step on, the disk refuses to take anything (ENOSPC) or to change at all (EROFS).

    Args:
        folder: see `at_steps`.
        step: number of the first step that may be refused.
        number: errno.
    """

    def act(at: int, event: str, arguments: tuple) -> None:
        affected = event in TAKES_ROOM or number != errno.ENOSPC
        if at >= step and affected and _writes(event, arguments):
            raise OSError(number, os.strerror(number), str(arguments[0]))

    at_steps(folder, act)


def count_steps(folder: Path, file: Path) -> None:
    """Writes the number of steps taken so far to a file, at every step.

    Args:
        folder: see `at_steps`.
        file: outside of the folder.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    at_steps(folder, lambda number, event, arguments: os.pwrite(descriptor, f"{number + 1:8d}".encode(), 0))
