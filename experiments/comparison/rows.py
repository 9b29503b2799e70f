# SPDX-License-Identifier: MIT
"""Rows: a scenario by its name and its changes, such as `clustered_nearest_fast,loss.margin=0.3`.

Commas separate the parts of a row. The first may name a file of configs/scenario; without it the row changes the
proposal. The others are `group=file`, `group.argument=value`, `trainer.key=value` and `refit=train_val`.
"""

import inspect
import pkgutil
import re
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError, nearest
from experiments.command_line.choices import load_node, short_name
from experiments.comparison.scenarios import KINDS, TRAINER_KEYS, Scenario, make_scenario, node_of

PROPOSAL = "clustered_nearest"
_COMMA = re.compile(r",\s*(?=[\w.]+=)")  # before the next key; commas in a list [0.9,0.95] are part of its value


def split_row(row: str) -> list[str]:
    """The parts of a row.

    >>> split_row("knn"), split_row("ism, optimizer=sgd,optimizer.betas=[0.9,0.95]")
    (['knn'], ['ism', 'optimizer=sgd', 'optimizer.betas=[0.9,0.95]'])
    """
    return _COMMA.split(row.strip())


def scenario_of_row(row: str, cfg: DictConfig) -> Scenario:
    """The scenario of a row, with everything in it built once.

    Raises:
        InputError: an unknown scenario, group, file, argument or key, or a key twice.
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
        if key == "refit":
            content[key] = written[key]
            continue
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
        return node  # the error comes when the scenario is built
    if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        known = f"an argument of {short_name(group, node)}: "
        check_known(f"{group}.{argument} of scenario {row!r}", argument, taken, known)
    return node


def check_known(what: str, name: str, known: Collection[str], of: str = "one of ") -> None:
    """Refuses an unknown name.

    Raises:
        InputError: the name is unknown; the message has the known name most like it.
    """
    if name not in known:
        raise InputError(what, f"{of}{', '.join(known)}", nearest(name, known, "correct the name"))
