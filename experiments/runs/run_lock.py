# SPDX-License-Identifier: MIT
"""The lock of a run folder."""

import fcntl
import os
import platform
import time
from pathlib import Path

from datamodules.errors import InputError


class RunLock:
    """Lets one coordinator at a time work on a run folder.

    It is a lock of the kernel on an open file, so it ends with its process. It holds between machines on file systems
    that share locks (NFS with its lock service, Lustre with -o flock, GPFS, CephFS). Its text is for people.

    Raises:
        InputError: another process holds the lock, or the file system has no locks.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path):
        self._file = open(path, "a+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = " ".join(self._file.read(200).split())
            self._file.close()
            if not isinstance(error, BlockingIOError):
                got = f"{path.parent} on a file system without locks ({error.strerror})"
                raise InputError(got, "one that has them", "choose another runs_dir") from None
            got = f"{path.parent}, in use by another process{f' ({holder})' if holder else ''}"
            cure = "wait for it, or choose another name"
            raise InputError(got, "one coordinator per run folder", cure) from None

    def sign(self) -> None:
        """Writes into the file which process holds the lock."""
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()
