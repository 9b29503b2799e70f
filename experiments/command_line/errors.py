# SPDX-License-Identifier: MIT
"""Errors that the user can mend, those of Hydra too, as one line with got, expected and cure; exit code 2."""

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
from experiments.command_line.words import keys_in, unknown_key

KINDS = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false", "String": "a text"}
KINDS["Invalid value assigned: str is not a ListConfig, list or tuple."] = "a list in brackets"


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


def refuse_missing(schema: type, cfg: DictConfig) -> None:
    """Refuses, with an `InputError`, a configuration without a value that must be given, or with one of no use.

    A schema may have a function `unneeded` of the configuration: keys which this one has no use for, and the reason.
    """
    unneeded, why = schema.unneeded(cfg) if hasattr(schema, "unneeded") else ((), "")
    for key in unneeded:
        if OmegaConf.select(cfg, key) is not None:
            raise InputError(f"{key}=, although {why}", f"no {key}=", "leave it out")
    # The crops of an alignment without a size get that of the extractor.
    missing = sorted(OmegaConf.missing_keys(cfg) - {"alignment.image_size", *unneeded})
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
        if found := each if isinstance(each, InputError) else disk_error(each):
            return _one_line(str(found))
    known = isinstance(error, (HydraException, OmegaConfBaseException))
    if found := _explained(error, seen[-1], schema, command) if known or isinstance(error, ValueError) else None:
        return _one_line(str(found))
    if not known and not isinstance(error, YAMLError):
        return None
    # Hydra wraps errors: the innermost names the key, or the argument that a constructor did not take.
    inner = seen[-1] if isinstance(seen[-1], (HydraException, OmegaConfBaseException, TypeError)) else error
    text = _one_line(str(error)) + ("" if inner is error else f" ({_one_line(str(inner))})")
    got = f"a configuration that cannot be used: {text}"
    cure = "see --help, or --cfg job for the composed configuration"
    return str(InputError(got, "keys and values of experiments/configs", cure))


def _explained(error: BaseException, inner: BaseException, schema: type | None, command: str) -> InputError | None:
    """What Hydra's error means to the user; None if its own words must do."""
    text = str(error)
    if choice := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", text):
        group, name = choice.groups()
        cure = nearest(name, files(group), f"correct the name or add configs/{group}/{name}.yaml")
        return InputError(f"{group}={name}", f"one of {', '.join(files(group))}", cure)
    if "Config group override must be" in text:  # data=null
        word = next((one for one in sys.argv[1:] if one.endswith("=null")), "null")
        return InputError(word, "a choice of the group", f"python -m experiments.list {word[:-5]} shows them")
    if isinstance(error, OverrideParseException):
        cure = """quote rows twice, for the shell and for Hydra: 'scenarios=[knn,"loss.margin=0.3"]'"""
        return InputError(f"{error.override}, which Hydra cannot read", "key=value", cure)
    if isinstance(error, InstantiationException) and isinstance(inner, ValueError):
        target = re.search(r"target '[\w.]*?(\w+)'", text)
        got = f"{target[1] if target else 'a class'} with {str(inner).removeprefix('got ')}"
        return InputError(got, "values that it takes", "correct them")
    if not isinstance(inner, OmegaConfBaseException):
        return None
    if schema and (unknown := re.search(r"Could not override '([^']+)'", text)):
        group, _, argument = (key := unknown[1]).partition(".")
        if not (having := [f"{group}={name}" for name in files(group) if argument in keys_in(group, name)]):
            return unknown_key(key, schema, command)
        takes = ", ".join(f"{group}.{one}" for one in inner.parent_node or () if str(one)[0] != "_")
        got, expected = f"{key}, which the chosen {group} does not have", takes or f"a choice of {group}"
        return InputError(got, expected, f"{' or '.join(having)} has it")
    if typed := re.match(r"Error merging override (.+)", text):
        reason = str(inner.msg).splitlines()[0]
        expected = KINDS.get(reason.rpartition(" to ")[2], f"another value: {reason}")
        return InputError(typed[1], expected, "correct the value")
    return None


def _one_line(text: str) -> str:
    lines = text.partition("Config search path:")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip() and "To append to your config" not in line)
