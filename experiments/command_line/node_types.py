# SPDX-License-Identifier: MIT
"""Whether the values of a Hydra node are of the kinds that its class takes, by the type hints of the class."""

import pkgutil
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from datamodules.errors import InputError

KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", NoneType: "null"}


def check_types(node: dict[str, Any], place: str = "") -> None:
    """Refuses a value that the class or function of `_target_` does not take, in a node and the nodes in it.

    Raises:
        InputError: such a value; `place` stands before its key.
    """
    hints = _hints(node["_target_"]) if "_target_" in node else {}
    for key, value in node.items():
        if isinstance(value, dict):
            check_types(value, f"{place}{key}.")
        elif key in hints and value != MISSING and not any(_fits(value, one) for one in _parts(hints[key])):
            kinds = [KINDS.get(one, "") or " or ".join(map(str, get_args(one))) for one in _parts(hints[key])]
            expected = " or ".join(kind for kind in kinds if kind) or "what its class takes"
            raise InputError(f"{place}{key}={value}", expected, f"correct {place}{key}")


def _hints(target: str) -> dict[str, Any]:
    try:
        found = pkgutil.resolve_name(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)
    except (ImportError, AttributeError, ValueError, NameError, TypeError):
        return {}  # the error comes when it is built


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if value is None or hint in (Any, str):
        return hint in (Any, NoneType, object) or value is not None
    if hint is float:
        return type(value) in (float, int)
    if hint in KINDS:
        return type(value) is hint
    # No number or text is a list, a tensor or a dtype; of other classes nobody knows.
    plain = type(value) in KINDS
    return not plain or (get_origin(hint) is None and getattr(hint, "__module__", "").partition(".")[0] != "torch")
