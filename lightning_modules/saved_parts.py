# SPDX-License-Identifier: MIT
"""Routers, decisions and indexes as JSON values and tensors, as an Identifier saves them.

The arguments of their constructors are attributes of the same name. No file format of another library is read.
"""

import importlib
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


def known_class(name: str, base: type) -> Any:
    """The class of that full name. Raises InputError: no sub-class of `base` in a module beside that of `base`."""
    package = base.__module__.removesuffix("base")
    module, _, short = name.rpartition(".")
    # A foreign JSON must not choose what is imported.
    if not module.startswith(package) or not module.removeprefix(package).isidentifier():
        raise InputError(f"class {name!r}", f"one of {package}*", CURE)
    found = getattr(importlib.import_module(module), short)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"class {name!r}", f"a {base.__name__}", CURE)
    return found


def restore(description: dict[str, Any] | None, base: type, tensors: dict[str, Tensor]) -> Any:
    """The part that `describe` and `tensors_of` (tensors of any shape) were taken from; None for None.

    Raises InputError: a class that is no `base` of this project, or arguments it does not take.
    """
    if description is None:
        return None
    name = str(description.get("class"))
    try:
        return known_class(name, base)(**description["arguments"], **tensors)
    except InputError:
        raise
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{name!r} ({error})", f"a {base.__name__} with its arguments", CURE) from None
