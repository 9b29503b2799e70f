# SPDX-License-Identifier: MIT
"""A scenario by its name, or by what differs from one: `clustered_nearest_fast,loss.margin=0.3`.

A row is parts with commas between. The first may name a file of configs/scenario; without it the row is the proposal.
The others are `group=file`, `group.argument=value` (of the node of that group) and `trainer.key=value`.
"""

import inspect
import pkgutil
import re
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError, nearest
from experiments.coordination.scenarios import (
    KINDS,
    TRAINER_KEYS,
    Scenario,
    load_node,
    make_scenario,
    node_of,
    short_name,
)  # fmt: skip

PROPOSAL = "clustered_nearest"
_COMMA = re.compile(r",\s*(?=[\w.]+=)")  # before the next key; commas in a list [0.9,0.95] are part of its value


def split_row(row: str) -> list[str]:
    """The parts of a row.

    >>> split_row("knn"), split_row("ism, optimizer=sgd,optimizer.betas=[0.9,0.95]")
    (['knn'], ['ism', 'optimizer=sgd', 'optimizer.betas=[0.9,0.95]'])
    """
    return _COMMA.split(row.strip())


def make_row(row: str, cfg: DictConfig) -> Scenario:
    """The scenario that a row stands for; everything in it is built once.

    Raises:
        InputError: an unknown scenario, group, file, argument or key, or one that is named twice.
        HydraException, OmegaConfBaseException: a value that cannot be used.
    """
    name = ",".join(split_row(row))
    first, *parts = split_row(row)
    base, parts = (PROPOSAL, [first, *parts]) if "=" in first else (first, parts)
    content = load_node("scenario", base)
    written = dict(part.split("=", 1) for part in parts)
    if len(written) < len(parts):
        raise InputError(f"scenario {name!r}", "each key once", "leave out the second")
    for key in sorted(written, key=lambda key: "." in key):  # first the file of a group, then arguments of its node
        group, _, argument = key.partition(".")
        if not argument:
            check_known(f"group {group!r} of scenario {name!r}", group, KINDS)
            load_node(group, written[key])
            content[group] = written[key]
            continue
        if group == "trainer":
            check_known(f"{key} of scenario {name!r}", argument, TRAINER_KEYS)
        else:
            check_known(f"group {group!r} of scenario {name!r}", group, (*KINDS, "trainer"))
            content[group] = _node_that_takes(argument.partition(".")[0], group, name, content, cfg)
        # Typed as on the command line and in a YAML file: a number, true, null, a list, or text.
        value = OmegaConf.from_dotlist([f"value={written[key]}"])["value"]
        OmegaConf.update(content, key, value, force_add=True)
    if parts and "title" in content:
        content["title"] = ", ".join([content["title"], *parts])
    return make_scenario(name, content, cfg)


def _node_that_takes(argument: str, group: str, row: str, content: DictConfig, cfg: DictConfig) -> dict[str, Any]:
    node = node_of(group, content, cfg)
    if node is None:
        raise InputError(f"{group}.{argument} of scenario {row!r}", f"a {group}", f"name one: {group}=...")
    try:
        taken = inspect.signature(pkgutil.resolve_name(node.get("_target_", ""))).parameters
    except (ImportError, AttributeError, ValueError):
        return node  # building the scenario will say what is wrong with the node itself
    if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        known = f"an argument of {short_name(group, node)}: "
        check_known(f"{group}.{argument} of scenario {row!r}", argument, taken, known)
    return node


def check_known(what: str, name: str, known: Collection[str], of: str = "one of ") -> None:
    """Refuses a name that is not known; the error names the one most like it.

    Raises:
        InputError: not one of them.
    """
    if name not in known:
        raise InputError(what, f"{of}{', '.join(known)}", nearest(name, known, "correct the name"))
