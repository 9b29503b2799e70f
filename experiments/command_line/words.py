# SPDX-License-Identifier: MIT
"""The words of a command line, checked, and as Hydra's grammar needs them.

A value is a text, a list in brackets or, in a multirun, several values. Each part that the grammar does not know, as a
path or a name may be, is put in quotes.
"""

import dataclasses
import re
from collections.abc import Iterator

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from datamodules.errors import InputError, nearest
from experiments.command_line.choices import CONFIGS, files
from experiments.command_line.terminal import FLAGS

# Hydra's own flags; a further word may stand behind the first ones.
BEFORE_A_WORD = "--cfg -c --package -p --config-path -cp --config-name -cn --config-dir -cd --info -i".split()
ALONE = "--help -h --hydra-help --version --resolve --run -r --multirun -m --shell-completion -sc".split()
PATHS = ("path", "root", "weights")  # arguments of files in groups that are a text
CHOOSES_DATA = {"data", "+data", "run", "source"}  # data.path= without any of these selects data=embedding_set
_UNKNOWN, _SEVERAL = object(), object()


def for_hydra(typed: list[str], command: str, schema: type) -> list[str]:
    """The words of a command line as Hydra needs them; refuses, with an `InputError`, those that are none of its."""
    words, swept = [], any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in typed)
    kinds, groups = dict(keys_of(schema)), groups_of(command)
    for before, word in zip(["", *typed], typed, strict=False):
        if word.startswith("-"):
            flags = (*BEFORE_A_WORD, *ALONE, *FLAGS)
            if word.partition("=")[0] not in flags:
                raise InputError(word, "key=value, or a flag such as --quiet", nearest(word, flags, "see --help"))
        elif before not in BEFORE_A_WORD:
            word = scenario_name(word) if "scenario.name" in kinds else word
            key, equals, _ = word.lstrip("+~").partition("=")
            head, _, inner = key.partition(".")
            section = dataclasses.is_dataclass(kinds.get(head))
            if not equals and word[0] != "~":
                keys = [f"{one}=..." for one in known_keys(schema, command)]
                raise InputError(f"{word!r}", "key=value", nearest(f"{word}=...", keys, "see --help"))
            if not (head in kinds or head in groups or head.startswith("hydra")) or (section and key not in kinds):
                raise unknown_key(key, schema, command)
            if section and not inner and equals:
                inside = sorted(one for one in kinds if one.startswith(f"{head}."))
                raise InputError(word, f"a value for one of {', '.join(inside)}", f"write {inside[0]}=...")
            text = kinds.get(key) in (str, str | None) or (key not in kinds and key.rpartition(".")[2] in PATHS)
            word = quoted(word, swept, text)
        words.append(word)
    given = [word.partition("=")[0] if "=" in word else "" for word in words]
    if "data.path" in given and "data.path" not in kinds and not CHOOSES_DATA.intersection(given):
        words.insert(given.index("data.path"), "data=embedding_set")  # Hydra takes no word behind the last flag
    return words


def unknown_key(key: str, schema: type, command: str) -> InputError:
    """The error for a key that a command does not have, with the one most like it."""
    known = set(known_keys(schema, command))
    inner = {one for one in known if "." in key and one.rpartition(".")[0] == key.rpartition(".")[0]}
    cure = nearest(key, inner or known, "correct the key, or see --help")
    return InputError(key, "a key of this command", cure)


def scenario_name(word: str) -> str:
    """`scenario=ROW` as Hydra needs it: Hydra would look for a file ROW in the group configs/scenario.

    >>> scenario_name("scenario=ism"), scenario_name("scenario=loss.margin=0.3"), scenario_name("seed=3")
    ('scenario.name=ism', 'scenario.name="loss.margin=0.3"', 'seed=3')
    """
    key, _, row = word.partition("=")
    if key != "scenario":
        return word
    return f"scenario.name={row}" if "=" not in row or row[0] in "\"'" else f'scenario.name="{row}"'


def quoted(word: str, multirun: bool, text: bool = False) -> str:
    """`key=value` with those parts of the value in quotes that Hydra's grammar does not know.

    With `text` the value is one text, such as a path with commas. Raises InputError: several values, but no multirun.

    >>> quoted("data.path=/données [1]", False), quoted("remove=[Zoë,Bo]", False), quoted("seed=3", False)
    ('data.path="/données [1]"', 'remove=["Zoë",Bo]', 'seed=3')
    """
    key, _, value = word.partition("=")
    read, values = _read(value), split(value)
    if (read is _SEVERAL or (read is _UNKNOWN and len(values) > 1)) and not (multirun or text):
        cure = f"-m for a run of each: -m {word}"
        if not (CONFIGS / key).is_dir() or key == "callbacks":
            cure = f"""{key}=[{value}] for a list, {key}='"{value}"' for one text, or {cure}"""
        raise InputError(f"{word}, several values", "one value", cure)
    if read is _UNKNOWN and key == "scenarios":  # a row in brackets without quotes, which Hydra explains
        return word
    if read is _UNKNOWN or (read is _SEVERAL and not multirun):
        return f"{key}={','.join(_part(one, text) for one in (values if multirun else [value]))}"
    keep = isinstance(read, str) or read in (None, _SEVERAL)
    return word if keep or not text else f"{key}={QuotedString(value, Quote.double).with_quotes()}"


def split(text: str) -> list[str]:
    """The parts of a text between commas; commas in quotes or brackets divide nothing.

    >>> split("/a,/b"), split("[1,2],'x,y'"), split("O'Brien, Zoë")
    (['/a', '/b'], ['[1,2]', "'x,y'"], ["O'Brien", ' Zoë'])
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote or (letter in "\"'" and not parts[-1].strip()):
            quote = "" if letter == quote else quote or letter
        elif letter in "[{()}]":
            depth += 1 if letter in "[{(" else -1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [text] if depth or quote else parts


def _part(value: str, text: bool) -> str:
    value = value.strip()
    if not text and value[:1] + value[-1:] == "[]":
        return f"[{','.join(_part(one, text) for one in split(value[1:-1]))}]"
    return QuotedString(value, Quote.double).with_quotes() if _read(value) in (_UNKNOWN, _SEVERAL) else value


def _read(value: str) -> object:
    try:
        found = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return _UNKNOWN
    return _SEVERAL if found.is_sweep_override() else found.value()


def keys_of(schema: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The keys of a schema with dots, and their types; that of a section is a dataclass."""
    for field in dataclasses.fields(schema):
        yield prefix + field.name, field.type  # type: ignore[misc]
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from keys_of(field.type, f"{prefix}{field.name}.")


def groups_of(command: str) -> list[str]:
    """The groups in the defaults list of a command."""
    text = (CONFIGS / f"{command}.yaml").read_text(encoding="utf-8")
    return re.findall(r"^  - (?!override)(\S+):", text, re.MULTILINE)


def known_keys(schema: type, command: str) -> Iterator[str]:
    """The keys of a command with dots, its groups, and the keys of their files: `split.held_out`, `data.path`."""
    yield from dict(keys_of(schema))
    for group in groups_of(command):
        yield group
        folder, _, place = group.partition("@")
        for name in files(folder):
            yield from (f"{place or folder}.{key}" for key in keys_in(folder, name))


def keys_in(group: str, name: str) -> list[str]:
    """The keys in a file of a group."""
    text = (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")
    return re.findall(r"^([a-z]\w*):", text, re.MULTILINE)
