# SPDX-License-Identifier: MIT
"""Writing files so that a reader sees the old one or the new one, never half of it; reading them back with bounds."""

import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is synced and renamed over `path`, on error removed.

    Write, flush, fsync, replace, fsync of the folder: the order that survives a crash at any point
    (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).

    Args:
        path: where the finished file shall be; its folder must exist.
    """
    with replace_file(path, sync=True) as temporary:
        yield temporary


@contextmanager
def replace_file(path: Path | str, sync: bool = False) -> Iterator[Path]:
    """Like `atomic_file`; without `sync` it survives the death of the process, but not that of the machine.

    Args:
        path: where the finished file shall be; its folder must exist.
        sync: whether to wait until the disk has it.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; ours are to be shared as usual
        os.replace(temporary, path)
        if sync:
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Like `atomic_file` for a folder that does not exist yet.

    Args:
        path: where the finished folder shall be.

    Raises:
        InputError: the folder is there already and is not empty.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}, which exists", "a new folder", "name another one or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        for file in temporary.rglob("*"):
            if file.is_file():
                os.chmod(file, 0o666 & ~umask)  # safetensors makes private files
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(new: Path | str, path: Path | str) -> None:
    """Puts a finished folder in the place of another, which goes.

    Linux exchanges the two in one step, so that a reader finds the old or the new at any moment. Elsewhere there is a
    short time without either; a process that dies within it leaves the old folder as `.<name>.old`.

    Args:
        new: a folder beside `path`, complete.
        path: the folder to be replaced; need not exist.
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
    _sync_folder(path.parent)


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


def read_json(path: Path | str, cure: str = "restore the file or make it anew") -> dict:
    """Reads a JSON object.

    Args:
        path: the file.
        cure: what the error should advise.

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
        path: the file.
        dtypes: names of the dtypes allowed, such as ("float16", "float32").
        ndim: the number of axes it must have.

    Returns:
        A read-only array backed by the file (an ordinary empty array where it holds no element).

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
