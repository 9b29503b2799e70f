# SPDX-License-Identifier: MIT
"""The page of all configuration keys, from the schemas of the commands and the files of experiments/configs."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from experiments.command_line.choices import CONFIGS, choices, files, groups

HEAD = """\
# Configuration keys

Made of the schemas of the commands and of `experiments/configs` by `make docs`; what is changed here by hand is lost.
A key is written `key=value` behind a command; a group (`loss=cosface`) chooses a file, whose keys are written with the
group in front (`loss.margin=0.4`). Keys that are not listed are refused.
"""
COMMENTED = re.compile(r"^ {4}(\w+)\s*:[^#\n]*#\s*(.+)$", re.MULTILINE)
LINE = re.compile(r"^(\w+):(?: +(.*?))?(?: +# (.*))?$", re.MULTILINE)


def page() -> str:
    """The page as Markdown; imports every command."""
    parts = [HEAD, "## Commands\n"]
    for root in sorted(CONFIGS.glob("*.yaml")):
        text = root.read_text(encoding="utf-8")
        parts.append(f"### experiments.{root.stem}\n\n{text.splitlines()[0].removeprefix('#').strip()}.\n")
        importlib.import_module(f"experiments.{root.stem}")  # stores the schema
        schema = OmegaConf.get_type(ConfigStore.instance().repo[f"{root.stem}_schema.yaml"].node)
        defaults = _chosen(root)
        rows = []
        for key, value, about in _fields(schema):
            default = f"`{defaults[key]}`" if key in defaults else value
            rows.append((key, default, f"group; {about}".removesuffix("; ") if key in groups() else about))
            if key == "trainer" and key in defaults:
                lines = _lines(CONFIGS / key / f"{defaults[key]}.yaml")
                rows += [(f"{key}.{name}", f"`{value}`", about) for name, value, about in lines]
        parts.append(_table(("key", "default", "what"), rows))
    parts.append("## Groups\n")
    for group in groups():
        parts.append(f"### {group}\n")
        rows = [(f"`{one.name}`", one.about, ", ".join(_keys(one.file)) or "-") for one in choices([group])]
        parts.append(_table((f"`{group}=`", "what", "keys with their defaults"), rows))
    return "\n".join(parts)


def about(schema: type, key: str) -> str:
    """What is said of a key in its schema, or in a file of its group; "a value" if nothing is."""
    group, rows = key.partition(".")[0], list(_fields(schema))
    for name in files(group):
        rows += [(f"{group}.{inner}", "", text) for inner, _, text in _lines(CONFIGS / group / f"{name}.yaml")]
    return next((text for name, _, text in rows if name == key and text), "a value")


def _chosen(root: Path) -> dict[str, str]:
    listed = OmegaConf.to_container(OmegaConf.load(root)).get("defaults", [])
    return {
        key: str(value) for one in listed if isinstance(one, dict) for key, value in one.items()
        if value is not None and "override" not in key
    }  # fmt: skip


def _fields(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    comments: dict[str, str] = {}
    for one in reversed(schema.__mro__[:-1]):
        comments |= dict(COMMENTED.findall(inspect.getsource(one)))
    for field in dataclasses.fields(schema):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _fields(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _default(field), comments.get(field.name, "")


def _default(field: dataclasses.Field) -> str:
    value: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value in (dataclasses.MISSING, MISSING):
        return "must be given"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _keys(file: Path) -> list[str]:
    found = []
    for key, value, about in _lines(file):
        if not key.startswith("_") and key not in ("defaults", "title"):
            found.append((f"`{key}: {value}`" if value else f"`{key}`") + (f" ({about})" if about else ""))
    return found


def _lines(file: Path) -> list[tuple[str, str, str]]:
    """The top-level keys of a configuration file, their values and comments."""
    return LINE.findall(file.read_text(encoding="utf-8"))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in line) + " |\n" for line in lines
    )
