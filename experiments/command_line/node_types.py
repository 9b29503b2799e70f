# SPDX-License-Identifier: MIT
"""Whether the values of a Hydra node are of the kinds that its class takes, by the type hints of the class."""

import pkgutil
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from datamodules.errors import InputError

KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", NoneType: "null"}


def check_types(node: dict[str, Any], place: str = "") -> None:
    """Refuses, with an `InputError`, a value that its `_target_` does not take; `place` is before keys."""
    try:
        made = pkgutil.resolve_name(node["_target_"])
        hints = get_type_hints(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    except (KeyError, ImportError, AttributeError, ValueError, NameError, TypeError):
        hints = {}  # no class, or the error comes when it is built
    for key, value in node.items():
        hint = hints.get(key, Any)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if isinstance(value, dict):
            check_types(value, f"{place}{key}.")
        elif value != MISSING and not any(_fits(value, kind) for kind in kinds):
            expected = [KINDS[kind] for kind in kinds if kind in KINDS] or [str(hint)]
            raise InputError(f"{place}{key}={value}", " or ".join(expected), f"correct {place}{key}")


def _fits(value: Any, kind: Any) -> bool:
    if kind in (Any, object) or value is None:
        return kind in (Any, object, NoneType)
    if kind in (float, str):  # a number that is a text may be the name of something
        return type(value) in (float, int, kind)
    # No number and no text is a list, a tensor or a dtype; of other classes nobody knows.
    unlike = get_origin(kind) in (list, tuple) or getattr(kind, "__module__", "").partition(".")[0] == "torch"
    return type(value) is kind if kind in KINDS else not (unlike and type(value) in KINDS)
