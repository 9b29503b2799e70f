# SPDX-License-Identifier: MIT
"""Errors that the user can mend, those of Hydra too, as one line with got, expected and cure; exit code 2."""

import dataclasses
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.errors import InputError, nearest
from datamodules.files import disk_error
from experiments.command_line.choices import CONFIGS, files
from experiments.command_line.terminal import show_error
from experiments.command_line.words import known_keys, unknown_key

KINDS = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false", "String": "a text"}


@contextmanager
def errors_as_one_line(schema: type | None = None, command: str = "") -> Iterator[None]:
    """Prints an error that the user can mend as one line on standard error, and exits with code 2.

    A misspelt key gets the nearest one of the schema and the groups of the command.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (line := as_input_error(error, schema, command)) is None:
            raise  # a defect of ours: its traceback helps
        show_error(line)
        sys.exit(2)


def refuse_unknown(schema: type, cfg: DictConfig, prefix: str = "") -> None:
    """Refuses keys that a dataclass, or a dataclass inside it, does not have.

    Raises:
        InputError: an unknown key.
    """
    known = {field.name: field.type for field in dataclasses.fields(schema)}
    for key in cfg:
        if key not in known:
            expected = f"one of {', '.join(prefix + name for name in known)}"
            raise InputError(f"{prefix}{key}", expected, nearest(key, known, "correct the key"))
        inner = known[key]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            refuse_unknown(inner, cfg[key], f"{prefix}{key}.")


def refuse_missing(schema: type, cfg: DictConfig) -> None:
    """Refuses a configuration without a value that must be given.

    Raises:
        InputError: such a key, with its choices or what it is.
    """
    # The crops of an alignment without a size get that of the extractor.
    missing = sorted(key for key in OmegaConf.missing_keys(cfg) if key != "alignment.image_size")
    if missing:
        from experiments.command_line.keys_page import about  # late: only an error needs it

        key = missing[0]
        expected = f"one of {', '.join(files(key))}" if (CONFIGS / key).is_dir() else about(schema, key)
        raise InputError(f"no {key}", expected, f"add {' '.join(f'{one}=...' for one in missing)}")


def as_input_error(error: BaseException, schema: type | None = None, command: str = "") -> str | None:
    """The one line for an error that the user's input caused, None for any other error."""
    chain: BaseException | None = error
    seen: list[BaseException] = []
    while chain is not None and not any(chain is each for each in seen):  # an error may be its own cause
        seen.append(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    for each in seen:
        found = each if isinstance(each, InputError) else disk_error(each)
        if found is not None:
            return _one_line(str(found))
    found = _explained(error, seen[-1], schema, command)
    if found is not None:
        return _one_line(str(found))
    if isinstance(error, YAMLError):
        text, inner = f"YAML that cannot be read: {error}", ""
    elif isinstance(error, (HydraException, OmegaConfBaseException)):
        # Hydra wraps errors: the innermost names the key, or the argument that a constructor did not take.
        innermost = seen[-1] if isinstance(seen[-1], (HydraException, OmegaConfBaseException, TypeError)) else error
        text, inner = str(error), "" if innermost is error else f" ({_one_line(str(innermost))})"
    else:
        return None
    return (
        f"got a configuration that cannot be used: {_one_line(text)}{inner}; expected keys and values of "
        "experiments/configs; cure: see --help, or --cfg job for the composed configuration"
    )


def _explained(error: BaseException, innermost: BaseException, schema: type | None, command: str) -> InputError | None:
    """What Hydra's error means to the user; None if its own words must do."""
    text = str(error)
    if choice := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", text):
        group, name = choice.groups()
        known = files(group)
        cure = nearest(name, known, f"correct the name or add configs/{group}/{name}.yaml")
        return InputError(f"{group}={name}", f"one of {', '.join(known)}", cure)
    if isinstance(error, ValueError) and "Config group override must be" in text:  # data=null
        word = next((one for one in sys.argv[1:] if one.endswith("=null")), "null")
        return InputError(
            word, "a choice of the group", f"name one: python -m experiments.list {word.partition('=')[0]}"
        )
    if isinstance(error, OverrideParseException):
        cure = """quote rows twice, for the shell and for Hydra: 'scenarios=[knn,"loss.margin=0.3"]'"""
        return InputError(f"{error.override}, which Hydra cannot read", "key=value", cure)
    if isinstance(error, InstantiationException) and isinstance(innermost, ValueError):
        reason, target = _one_line(str(innermost)), re.search(r"target '[\w.]*?(\w+)'", text)
        return InputError(
            f"{target[1] if target else 'a class'} with {reason.removeprefix('got ')}",
            "values that it takes",
            "correct them",
        )
    if not isinstance(error, HydraException):
        return None
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and schema and isinstance(innermost, OmegaConfBaseException):
        key, (group, _, argument) = unknown[1], unknown[1].partition(".")
        if key not in known_keys(schema, command):
            return unknown_key(key, schema, command)
        having = [name for name in files(group) if re.search(rf"^{argument}:", _text(group, name), re.MULTILINE)]
        known = [f"{group}.{name}" for name in innermost.parent_node or () if not str(name).startswith("_")]
        got = f"{key}, which the chosen {group} does not have"
        return InputError(got, f"one of {', '.join(known)}", f"{group}={' or '.join(having)} has it")
    if (word := re.match(r"Error merging override (.+)", text)) and isinstance(innermost, OmegaConfBaseException):
        reason = str(innermost.msg).splitlines()[0]
        kind = next((kind for name, kind in KINDS.items() if reason.endswith(f"to {name}")), None)
        return InputError(
            word[1] + ("" if kind else f" ({reason})"), kind or "a value of the key's kind", "correct the value"
        )
    return None


def _text(group: str, name: str) -> str:
    return (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")


def _one_line(text: str) -> str:
    lines = text.partition("Config search path:")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip() and "To append to your config" not in line)
