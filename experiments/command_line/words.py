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

# Hydra's own flags; the first ones may have a further word behind them.
BEFORE_A_WORD = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
                 "-cd", "--info", "-i", "--experimental-rerun")  # fmt: skip
ALONE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
         "--shell-completion", "-sc")  # fmt: skip
PATHS = ("path", "root", "weights")  # arguments of files in groups that are a text
# data.path= without any of the others selects data=embedding_set.
CHOOSES_DATA = {"data", "+data", "run", "source"}
_UNKNOWN, _SEVERAL = object(), object()


def for_hydra(typed: list[str], command: str, schema: type) -> list[str]:
    """The words of a command line as Hydra needs them; without output flags, which the caller takes out.

    Raises:
        InputError: a flag or a key that the command does not have, a word without a value, or several values of a key
            outside of a multirun.
    """
    words, swept = [], any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in typed)
    sections = {key: kind for key, kind in keys_of(schema) if dataclasses.is_dataclass(kind)}
    own = dict(keys_of(schema))
    for before, word in zip(["", *typed], typed, strict=False):
        if word.startswith("-"):
            if (flag := word.partition("=")[0]) not in (*BEFORE_A_WORD, *ALONE):
                cure = nearest(flag, (*BEFORE_A_WORD, *ALONE, *FLAGS), "see --help")
                raise InputError(flag, "key=value, or a flag such as --quiet", cure)
        elif before not in BEFORE_A_WORD:
            if "scenario.name" in own:
                word = scenario_name(word)
            key = _checked_key(word, command, schema, sections)
            inside = "." in key and key not in own and key.partition(".")[0] not in sections
            text = own.get(key) in (str, str | None) or (inside and key.rpartition(".")[2] in PATHS)
            word = quoted(word, swept, text)
        words.append(word)
    given = {word.partition("=")[0] for word in words if "=" in word}
    if "data" in own and "data" not in sections and "data.path" in given and not given & CHOOSES_DATA:
        place = next(place for place, word in enumerate(words) if word.startswith("data.path="))
        words.insert(place, "data=embedding_set")  # beside it: Hydra takes no word behind the last flag
    return words


def _checked_key(word: str, command: str, schema: type, sections: dict[str, type]) -> str:
    key, equals, value = word.lstrip("+~").partition("=")
    head, _, inner = key.partition(".")
    if not equals and word[0] != "~":
        keys = [f"{key}=..." for key in known_keys(schema, command)]
        cure = nearest(f"{word}=...", keys, "write key=value, or see --help")
        raise InputError(f"{word!r}", "key=value", cure)
    known = {*(name for name, _ in keys_of(schema)), *groups_of(command)}
    if (head not in known and not head.startswith("hydra")) or (head in sections and inner and key not in known):
        raise unknown_key(key, schema, command)
    if head in sections and not inner and equals:
        inside = [name for name in known if name.startswith(f"{head}.")]
        raise InputError(word, f"a value for one of {', '.join(sorted(inside))}", f"write {min(inside)}=...")
    return key


def unknown_key(key: str, schema: type, command: str) -> InputError:
    """The error for a key that a command does not have, with the one most like it."""
    known = set(known_keys(schema, command))
    inner = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    return InputError(
        key,
        "a key of this command",
        nearest(key, inner if "." in key and inner else known, "correct the key, or see --help"),
    )


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

    Args:
        text: whether the value is one text whatever it looks like, such as a path with commas.

    Raises:
        InputError: several values, with commas between, without a multirun.

    >>> quoted("data.path=/données [1]", False), quoted("remove=[Zoë,Bo]", False), quoted("seed=3", False)
    ('data.path="/données [1]"', 'remove=["Zoë",Bo]', 'seed=3')
    """
    key, _, value = word.partition("=")
    read, values = _read(value), split(value)
    if (read is _SEVERAL or (read is _UNKNOWN and len(values) > 1)) and not multirun and not text:
        cures = [f"-m for a run of each: -m {word}"]
        if not (CONFIGS / key).is_dir() or key == "callbacks":
            cures = [f"{key}=[{value}] for a list", f"""{key}='"{value}"' for one text""", *cures]
        raise InputError(f"{word}, several values", "one value", ", or ".join(cures))
    if read is _UNKNOWN and key == "scenarios":  # a row in brackets without quotes, which Hydra explains
        return word
    if read is _UNKNOWN or (read is _SEVERAL and not multirun):
        return f"{key}={','.join(_part(one, text) for one in (values if multirun else [value]))}"
    return f"{key}={_quotes(value)}" if text and not isinstance(read, str) and read not in (None, _SEVERAL) else word


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
    if not text and value.strip()[:1] + value.strip()[-1:] == "[]":
        return f"[{','.join(_part(one, text) for one in split(value.strip()[1:-1]))}]"
    return _quotes(value.strip()) if _read(value) in (_UNKNOWN, _SEVERAL) else value


def _read(value: str) -> object:
    try:
        found = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return _UNKNOWN
    return _SEVERAL if found.is_sweep_override() else found.value()


def _quotes(value: str) -> str:
    return QuotedString(value, Quote.double).with_quotes()


def keys_of(schema: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The keys of a schema with dots, and their types; a section is a dataclass."""
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
    yield from (key for key, _ in keys_of(schema))
    for group in groups_of(command):
        yield group
        folder, _, place = group.partition("@")
        for name in files(folder):
            text = (CONFIGS / folder / f"{name}.yaml").read_text(encoding="utf-8")
            yield from (f"{place or folder}.{key}" for key in re.findall(r"^([a-z]\w*):", text, re.MULTILINE))
