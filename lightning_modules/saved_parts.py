# SPDX-License-Identifier: MIT
"""Routers, decisions and indexes as JSON values and tensors, as an Identifier saves them.

The arguments of their constructors are attributes of the same name. No file format of another library is read.
"""

import importlib
from collections.abc import Collection
from typing import Any

from torch import Tensor

from datamodules.errors import InputError

CURE = "use a folder that this project wrote"


def _arguments(part: Any) -> dict[str, Any]:
    # A leading underscore marks what is computed from the arguments and kept.
    return {} if part is None else {key: value for key, value in vars(part).items() if not key.startswith("_")}


def describe(part: Any) -> dict[str, Any] | None:
    """Class and plain arguments of a part, as JSON values; None for None."""
    if part is None:
        return None
    arguments = {key: value for key, value in _arguments(part).items() if not isinstance(value, Tensor)}
    return {"class": f"{type(part).__module__}.{type(part).__qualname__}", "arguments": arguments}


def tensors_of(part: Any, name: str) -> dict[str, Tensor]:
    """Tensors of any shape among the arguments of a part, on the CPU, as `<name>.<argument>`; none for None."""
    found = _arguments(part).items()
    return {f"{name}.{key}": value.cpu().contiguous() for key, value in found if isinstance(value, Tensor)}


def under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those tensors, of any shape, whose names begin with `<name>.`, without that beginning."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def outside_package(name: str, base: type) -> str | None:
    """The package of a class by its full name; None for a module beside that of `base`, which is always allowed."""
    package, module = base.__module__.removesuffix("base"), name.rpartition(".")[0]
    beside = module.startswith(package) and module.removeprefix(package).isidentifier()
    return None if beside else module.partition(".")[0]


def known_class(name: str, base: type, allow: Collection[str] = ()) -> Any:
    """The sub-class of `base` with that full name.

    Args:
        allow: packages or modules that may be imported beside the folder of `base`.

    Raises:
        InputError: a class elsewhere, or one that is no sub-class of `base`.
    """
    module, _, short = name.rpartition(".")
    # A foreign JSON must not choose what is imported.
    outside = outside_package(name, base)
    if outside is not None and not any(module == one or module.startswith(f"{one}.") for one in allow):
        expected = f"one of {base.__module__.removesuffix('base')}*"
        raise InputError(f"class {name!r}", expected, f"{CURE}, or if you trust it, allow=[{outside}]")
    found = getattr(importlib.import_module(module), short)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"class {name!r}", f"a {base.__name__}", CURE)
    return found


def to_be_allowed(name: str, base: type) -> str | None:
    """The package that `known_class` must be allowed for a class; None if it needs no leave.

    Raises:
        InputError: a class that no other process could import.
    """
    package = outside_package(name, base)
    try:
        if package == "__main__":
            raise ImportError("__main__ is another module in another process")
        known_class(name, base, () if package is None else (package,))
    except (ImportError, AttributeError, ValueError) as error:
        got, cure = f"class {name!r}, which cannot be loaded again ({error})", "move it into a module of its own"
        raise InputError(got, "a class at the top of a module", cure) from None
    return package


def restore(
    description: dict[str, Any] | None, base: type, tensors: dict[str, Tensor], allow: Collection[str] = ()
) -> Any:
    """The part that `describe` and `tensors_of` (tensors of any shape) were taken from; None for None.

    Raises InputError: a class that `known_class` refuses, or arguments it does not take.
    """
    if description is None:
        return None
    name = str(description.get("class"))
    try:
        return known_class(name, base, allow)(**description["arguments"], **tensors)
    except InputError:
        raise
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{name!r} ({error})", f"a {base.__name__} with its arguments", CURE) from None
