# SPDX-License-Identifier: MIT
"""Atomic writing of files and folders; reading of JSON and .npy files that checks what it reads."""

import ctypes
import errno
import hashlib
import json
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
LEFTOVERS = (".*.tmp", ".tmp??????")  # our names, and those of safetensors, for unfinished files


def disk_error(error: BaseException, path: Path | str = "a file") -> DiskError | None:
    """The `DiskError` for a disk that is full, read-only or broken; None for any other error."""
    if isinstance(error, DiskError):
        return error
    number = getattr(error, "errno", None)
    if type(error).__module__.startswith("safetensors"):  # the number is in its text only
        named = re.search(r"\(os error (\d+)\)", str(error))
        number = int(named[1]) if named else None
    if not isinstance(number, int) or number not in _DISK:
        return None
    expected, cure = _DISK[number]
    got = f"{getattr(error, 'filename', None) or path} ({os.strerror(number)})"
    return DiskError(got, expected, f"{cure}, then repeat the command: what is finished is kept")


@contextmanager
def _named_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        found = disk_error(error, path)
        if found is None or found is error:
            raise
        raise found from None


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
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
    """`replace_file` whose result survives a crash of the machine."""
    return replace_file(path, sync=True)


@contextmanager
def replace_file(path: Path | str, sync: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is renamed to `path`, on error removed.

    Args:
        sync: write, fsync, rename, fsync of the folder: the order that survives a crash at any point (Pillai et al.,
            "All File Systems Are Not Created Equal", OSDI 2014). Without it the file survives the death of the process.
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
            with suppress(OSError):  # the first error matters
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Like `atomic_file` for a folder; without `overwrite` it refuses one that is there already and is not empty."""
    path = Path(path)
    if not overwrite and path.exists() and (not path.is_dir() or any(path.iterdir())):
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
            replace_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def make_folder(path: Path | str) -> Path:
    """Makes a folder and its missing parents, syncs their names, and returns the folder."""
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with _named_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            _sync(folder.parent)
    return path


def remove_leftovers(folder: Path | str, depth: int = 3) -> list[Path]:
    """Removes unfinished files and folders of killed writers, and returns their paths."""
    found = [p for level in range(depth) for name in LEFTOVERS for p in Path(folder).glob("*/" * level + name)]
    for path in found:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def replace_folder(new: Path | str, path: Path | str) -> None:
    """Replaces a folder, if there is one, by a complete folder beside it.

    Linux exchanges the two in one step: a reader finds the old or the new. Elsewhere there is a short time without
    either; a process that dies in it leaves the old folder as `.<name>.old`.
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
    # renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE), which Python does not offer.
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
    """Writes a JSON object with a key `digest`, by which `read_sealed` notices any damage."""
    content = json.loads(json.dumps(content, allow_nan=False))  # tuples become lists, as they are read back
    write_json(path, {**content, "digest": _digest(content)})


def read_sealed(path: Path | str, cure: str = "restore the file or make it anew") -> dict[str, Any]:
    """Reads what `write_sealed` wrote, without the digest; refuses what `read_json` does, and another digest."""
    content = read_json(path, cure)
    if content.pop("digest", None) != _digest(content):
        raise InputError(f"{path}, altered", "the content its digest was made of", cure)
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path | str, cure: str = "restore the file or make it anew") -> dict:
    """Reads a JSON object; refuses a file that is missing or holds anything else."""
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
    """Memory-maps an .npy file read-only, without pickle; numbers that are not stored as asked are converted in memory.

    Args:
        dtypes: names of dtypes of one kind, such as ("float16", "float32"). Other integers, and for a floating dtype
            other floating numbers too, become the last of them; another byte order becomes this machine's.

    Returns:
        A read-only array of any shape with `ndim` axes.

    Raises:
        InputError: no such file, not an .npy file, truncated, another shape, or numbers that cannot be converted.
    """
    path = Path(path)
    cure = "write the file again with numpy.save"
    expected = f"a {ndim}-d .npy file of {' or '.join(dtypes)}"
    if not path.is_file():
        raise InputError(f"no file {path}", expected, "check the path")
    with open(path, "rb") as stream:
        start = stream.read(6)
    if start != np.lib.format.MAGIC_PREFIX:
        cure = "numpy.save the array; for a table of text numpy.save(FILE, numpy.loadtxt(TEXT, delimiter=','))"
        raise InputError(f"{path}, which is no .npy file (it begins with {start!r})", expected, cure)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, OSError, EOFError, SyntaxError by the kind of damage
        raise InputError(f"{path}, unreadable ({' '.join(str(error).split())})", expected, cure) from None
    if array.ndim != ndim or array.dtype.kind not in {"f": "fiu", "i": "iu"}.get(np.dtype(dtypes[-1]).kind, "b"):
        raise InputError(f"{path} with shape {array.shape} of {array.dtype}", expected, cure)
    if array.dtype.name in dtypes and array.dtype.isnative:
        return array
    target = array.dtype.name if array.dtype.name in dtypes else dtypes[-1]
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    if converted.dtype.kind == "i" and not np.array_equal(converted, array):
        raise InputError(f"{path} with numbers up to {array.max()} or down to {array.min()}", expected, cure)
    converted.flags.writeable = False
    return converted


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
