# SPDX-License-Identifier: MIT
"""Writing files so that a reader sees the old one or the new one, never half of it; reading them back with bounds."""

import ctypes
import errno
import hashlib
import json
import mmap
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DiskError, InputError

_ROOM = ("room on the disk", "make room")
_RIGHT = ("a place that may be read and written", "change its rights or choose another")
_DISK = {
    errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EROFS: _RIGHT, errno.EACCES: _RIGHT, errno.EPERM: _RIGHT,
    errno.EIO: ("a disk that works", "look after the disk"),
}  # fmt: skip
LEFTOVERS = (".*.tmp", ".tmp??????")  # names of ours, and of safetensors, for what was not finished


def disk_error(error: BaseException) -> DiskError | None:
    """The error that a user can mend where the disk is full, read-only or broken; None for any other.

    safetensors hides the number of an operating-system error in its text.
    """
    if isinstance(error, DiskError):
        return error
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if type(error).__module__.startswith("safetensors"):
        named = re.search(r"\(os error (\d+)\)", str(error))
        number = int(named[1]) if named else None
    if not isinstance(number, int) or number not in _DISK:
        return None
    expected, cure = _DISK[number]
    cure = f"{cure}, then repeat the command: what is finished is kept"
    return DiskError(f"{file or 'a file'} ({os.strerror(number)})", expected, cure)


@contextmanager
def _named_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        found = disk_error(error)
        if found is None or found is error:
            raise
        found = DiskError(found.got.replace("a file", str(path)), found.expected, found.cure)
        raise found from None


def _sync(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def atomic_file(path: Path | str) -> AbstractContextManager[Path]:
    """`replace_file` that survives a crash of the machine too."""
    return replace_file(path, sync=True)


@contextmanager
def replace_file(path: Path | str, sync: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`, whose folder must exist; on success it is renamed over `path`, on error
    removed.

    Write, flush, fsync, replace, fsync of the folder: the order that survives a crash at any point
    (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).

    Args:
        sync: whether to wait until the disk has it; if not, the file survives the death of the process only.
    """
    path = Path(path)
    with _named_disk_errors(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            if sync:
                _sync(temporary)
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; ours are to be shared as usual
            os.replace(temporary, path)
            if sync:
                _sync(path.parent)
        except BaseException:
            with suppress(OSError):  # a disk that has become read-only must not hide why
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Like `atomic_file` for a folder that does not exist yet.

    Raises:
        InputError: the folder is there already and is not empty.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}, which exists", "a new folder", "name another one or remove it")
    with _named_disk_errors(path):
        make_folder(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            umask = _umask()
            os.chmod(temporary, 0o777 & ~umask)
            for inside in [*temporary.rglob("*"), temporary]:
                if inside.is_file():
                    os.chmod(inside, 0o666 & ~umask)  # safetensors makes private files
                _sync(inside)
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def make_folder(path: Path | str) -> Path:
    """Makes a folder and those above it, where missing, and syncs the names of the new ones; gives the folder.

    Raises:
        DiskError: the disk does not take it.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with _named_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _sync(folder.parent)
    return path


def remove_leftovers(folder: Path | str, depth: int = 3) -> list[Path]:
    """Removes what writers that were killed left unfinished; gives the paths of what was removed."""
    found = [p for level in range(depth) for name in LEFTOVERS for p in Path(folder).glob("*/" * level + name)]
    for path in found:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def replace_folder(new: Path | str, path: Path | str) -> None:
    """Puts a finished folder in the place of another, which goes.

    Linux exchanges the two in one step, so that a reader finds the old or the new at any moment. Elsewhere there is a
    short time without either; a process that dies within it leaves the old folder as `.<name>.old`.

    Args:
        new: a folder beside `path`, complete.
        path: need not exist.
    """
    new, path = Path(new), Path(path)
    if not path.exists():
        os.replace(new, path)
    elif _exchange(new, path):
        shutil.rmtree(new)
    else:
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old)
    _sync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    # renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE): no Python function stands for it.
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` (UTF-8) atomically to `path`."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Writes `content` as indented JSON atomically to `path`; NaN and infinity are refused, as JSON has none."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path | str, content: dict[str, Any]) -> None:
    """Writes a JSON object without a key `digest`, and a digest of it by which `read_sealed` notices any damage."""
    content = json.loads(json.dumps(content, allow_nan=False))  # tuples become lists, as they are read back
    write_json(path, {**content, "digest": _digest(content)})


def read_sealed(path: Path | str, cure: str = "restore the file or make it anew") -> dict[str, Any]:
    """Reads what `write_sealed` wrote, without the digest.

    Raises:
        InputError: as of `read_json`, or the content is not what the digest was made of.
    """
    content = read_json(path, cure)
    if content.pop("digest", None) != _digest(content):
        raise InputError(f"{path}, altered", "the content its digest was made of", cure)
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path | str, cure: str = "restore the file or make it anew") -> dict:
    """Reads a JSON object.

    Raises:
        InputError: no such file, not UTF-8, not JSON, or not an object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {path}", "a JSON file there", cure) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}, unreadable ({error})", "a JSON object", cure) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} with a JSON {type(content).__name__}", "a JSON object", cure)
    return content


def open_npy(path: Path | str, dtypes: tuple[str, ...], ndim: int) -> np.ndarray:
    """Memory-maps an .npy file read-only, without pickle, after checking that it holds what its header promises.

    Args:
        dtypes: names of the dtypes allowed, such as ("float16", "float32").

    Returns:
        A read-only array of any shape with `ndim` axes, backed by the file (an ordinary empty array where it holds no
        element).

    Raises:
        InputError: no such file, not an .npy file, another dtype or shape, or a truncated file.
    """
    path = Path(path)
    cure = "write the file again with numpy.save"
    expected = f"a {ndim}-d .npy file of {' or '.join(dtypes)}"
    if not path.is_file():
        raise InputError(f"no file {path}", expected, "check the path")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, OSError, EOFError, SyntaxError by the kind of damage
        raise InputError(f"{path}, unreadable ({error})", expected, cure) from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}, which is no .npy array", expected, cure)
    if array.ndim != ndim or array.dtype.name not in dtypes or not array.dtype.isnative:
        raise InputError(f"{path} with shape {array.shape} of {array.dtype}", expected, cure)
    return array


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def scattered_reads(array: np.ndarray) -> Iterator[None]:
    """Reads few rows from all over a memory map without what lies between them, for a while.

    The kernel reads 128 KiB around each row that it has not in memory, as it should where rows follow each other. The
    rows of one cluster lie far apart: of a set larger than memory that would be twenty times what is needed.

    Args:
        array: (N, D) memory map; with any other array nothing happens.
    """
    mapped: object = array
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    advise = getattr(mapped, "madvise", None)  # not on Windows
    if advise is None:
        yield
        return
    advise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        advise(mmap.MADV_NORMAL)
