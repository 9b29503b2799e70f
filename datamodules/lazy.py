# SPDX-License-Identifier: MIT
"""Packages name the classes of their modules without importing them (PEP 562), and data show themselves in one line."""

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def public_classes(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, for the classes of all modules in it and in its folders.

    A module is imported when one of its classes is asked for. Which module has a class is read from the files, so that
    a new file needs no entry in a list. A name that two modules define is left to their full paths.
    """

    @cache
    def modules() -> dict[str, str]:
        folder, found = Path(str(sys.modules[package].__file__)).parent, dict[str, list[str]]()
        for file in sorted(folder.rglob("[!_]*.py")):
            module = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            for name in re.findall(r"^class ([A-Z]\w*)", file.read_text(encoding="utf-8"), re.M):
                found.setdefault(name, []).append(module)
        return {name: places[0] for name, places in found.items() if len(places) == 1}

    def find(name: str) -> Any:
        if name == "__all__":
            return sorted(modules())
        if not name[0].isupper() or name not in modules():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules()[name]), name)

    return find, lambda: sorted({*vars(sys.modules[package]), *modules()})


def short_repr(data: Any) -> str:
    """One line for a dataclass: of arrays their dtype and shape, of long collections their length.

    >>> import numpy as np
    >>> from datamodules.partitioners.base import Partition
    >>> Partition(np.arange(5000) % 2, 2)
    Partition(cluster_of=int32 (5000,), n_clusters=2, extra=int32 (0, 2), provenance={})
    """
    shown = (f"{one.name}={_short(getattr(data, one.name))}" for one in fields(data) if one.repr)
    return f"{type(data).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, (tuple, list, dict)) and (len(value) > 9 or len(repr(value)) > 60):
        return f"{type(value).__name__} of {len(value):,}"
    return f"{type(value).__name__}()" if type(value).__repr__ is object.__repr__ else repr(value)
