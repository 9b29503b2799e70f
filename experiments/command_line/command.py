# SPDX-License-Identifier: MIT
"""The frame of every command: Hydra composes the configuration, errors become one line, the exit code tells the end.

Exit codes: 0 done; 1 a part failed (the table names it); 2 the input or the disk cannot be used; 130 stopped by Ctrl-C
or SIGTERM.
"""

import dataclasses
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.errors import InputError, nearest
from datamodules.files import disk_error
from experiments.command_line.choices import CONFIGS, files
from experiments.command_line.terminal import FLAGS_HELP, note_typed, show_error, verbosity, without_flags
from experiments.command_line.trainer_arguments import check_callbacks, check_trainer

# data.path= without any of the others selects data=embedding_set. Suites and finished runs choose their data.
ALONE = {"data.path", "data", "+data", "run", "sweep", "suite"}


def command(config_name: str, schema: type, work: str, after_multirun: str | None = None) -> Callable[[], None]:
    """Makes a command: a function without arguments that ends the process with an exit code.

    Args:
        config_name: the root config, `experiments/configs/<config_name>.yaml`. Its help text is in `hydra.help`.
        schema: dataclass of the root config's keys. It is stored as `<config_name>_schema`. The root config names it
            first in its defaults list, so that Hydra refuses any other key.
        work: dotted name of the function that takes the composed config and returns an exit code or None. It is
            imported after the keys are checked, so that --help and a mistyped key are answered at once.
        after_multirun: dotted name of a function without arguments that is called after the last run of a multirun.
    """
    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)

    def main() -> None:
        codes: list[int | None] = []
        multirun = False

        def task(cfg: DictConfig) -> None:
            nonlocal multirun
            multirun = HydraConfig.get().mode == RunMode.MULTIRUN
            with multirun_goes_on(codes), errors_as_one_line():  # before Hydra prints a line of its own
                refuse_unknown(schema, cfg)  # Hydra lets +key=value pass
                codes.append(_run(work, cfg))

        # Hydra prints errors in its own way and exits with 1; with this variable it raises them, and we print one line.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with errors_as_one_line(schema):
            note_typed(config_name, sys.argv[1:])
            words, level = without_flags(sys.argv[1:])
            if "scenario" in {field.name for field in dataclasses.fields(schema)}:
                words = [scenario_name(word) for word in words]
            swept = any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in words)
            words = [quoted(word, swept) for word in words]
            if config_name in ("compare", "train") and {word.partition("=")[0] for word in words} & ALONE == {
                "data.path"
            }:
                words.append("data=embedding_set")
            if {"--help", "-h"} & set(words):
                # Hydra's own help would first list every group, which takes a second.
                content = yaml.safe_load((CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8"))
                print(f"{content['hydra']['help']['template'].rstrip()}\n{FLAGS_HELP}")
                sys.exit(0)
            # Any argument of Lightning's Trainer can be added; `check_trainer` refuses the others.
            sys.argv[1:] = [re.sub(r"^trainer\.", "++trainer.", word) for word in words]
            with verbosity(level):
                if level != "verbose":
                    quieten()
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)()
                if multirun and after_multirun:
                    codes.append(get_method(after_multirun)())
        sys.exit(max((code or 0 for code in codes), default=0))

    return main


def scenario_name(word: str) -> str:
    """`scenario=ROW` as Hydra needs it: Hydra would look for a file ROW in the group configs/scenario.

    >>> scenario_name("scenario=ism"), scenario_name("scenario=loss.margin=0.3"), scenario_name("seed=3")
    ('scenario.name=ism', 'scenario.name="loss.margin=0.3"', 'seed=3')
    """
    key, _, row = word.partition("=")
    if key != "scenario":
        return word
    return f"scenario.name={row}" if "=" not in row or row[0] in "\"'" else f'scenario.name="{row}"'


def quoted(word: str, multirun: bool) -> str:
    """`key=value` with the value in quotes if Hydra's grammar does not know it, as a path may be; any other as it is.

    A path with commas is a sweep in a multirun, and a text otherwise.

    >>> quoted("data.path=/données [1]", False), quoted("seed=3", False)
    ('data.path="/données [1]"', 'seed=3')
    """
    key, _, value = word.partition("=")
    if not value or value[0] in "[{\"'" or key.startswith("-") or (multirun and "," in value):
        return word
    try:
        if not OverridesParser.create().parse_override(word).is_sweep_override() or multirun:
            return word
        if "/" not in value:  # a list of values without -m, which Hydra explains
            return word
    except HydraException:
        pass
    return f"{key}={QuotedString(value, Quote.double).with_quotes()}"


def known_keys(schema: type) -> Iterator[str]:
    """The keys of a command with dots, those of its groups' files too: `seed`, `split.held_out`, `data.path`."""
    for field in dataclasses.fields(schema):
        yield field.name
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from (f"{field.name}.{key}" for key in known_keys(field.type))
        for name in files(field.name) if (CONFIGS / field.name).is_dir() else ():
            text = (CONFIGS / field.name / f"{name}.yaml").read_text(encoding="utf-8")
            yield from (f"{field.name}.{key}" for key in re.findall(r"^([a-z]\w*):", text, re.MULTILINE))


def _run(work: str, cfg: DictConfig) -> int | None:
    name = cfg.get("name")
    if name and "runs_dir" in cfg and (name in (".", "..") or set(name) & set("/\\")):
        raise InputError(f"name={name}", "the name of a folder inside runs_dir", "set runs_dir= for another place")
    for key in ("seed", "seeds"):
        value = cfg.get(key)
        given = value if isinstance(value, ListConfig) else [value]
        if negative := [one for one in given if isinstance(one, int) and one < 0]:
            raise InputError(f"{key} with {negative[0]}", "numbers of at least 0", f"correct {key}=")
    if "logger" in cfg:
        instantiate(cfg.logger)  # a logger that cannot be built is refused before anything is written
    if isinstance(OmegaConf.select(cfg, "trainer"), DictConfig) and OmegaConf.get_type(cfg.trainer) is dict:  # open
        check_trainer(cfg.trainer)
        check_callbacks(cfg.get("callbacks") or {})
    function = get_method(work)
    if "launcher" not in cfg:
        return function(cfg)
    launcher = instantiate(cfg.launcher)
    asked = OmegaConf.select(cfg, "trainer.devices")
    if (devices := launcher.devices(asked)) != asked:
        cfg.trainer.devices = devices
    if launcher.serve():
        return 0
    try:
        return function(cfg)
    finally:
        launcher.release()


@contextmanager
def multirun_goes_on(codes: list[int | None]) -> Iterator[None]:
    """In a multirun, names a configuration that fails, adds its exit code, and goes on, unless the user stopped it."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        yield
        return
    before = len(codes)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 130:
            raise
        codes.append(int(ended.code or 0))
    except Exception:
        traceback.print_exc()
        codes.append(1)
    if failed := next((code for code in codes[before:] if code), 0):
        print(f"failed with exit code {failed}: {' '.join(hydra_config.overrides.task)}", file=sys.stderr)


@contextmanager
def errors_as_one_line(schema: type | None = None) -> Iterator[None]:
    """Prints an error that the user can mend as one line on standard error, and exits with code 2.

    A misspelt key gets the nearest one of the schema.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (line := as_input_error(error, schema)) is None:
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


def as_input_error(error: BaseException, schema: type | None = None) -> str | None:
    """The one line for an error that the user's input caused, None for any other error.

    A misspelt key gets the nearest one of the schema.
    """
    chain: BaseException | None = error
    seen: list[BaseException] = []
    while chain is not None and not any(chain is each for each in seen):  # an error may be its own cause
        seen.append(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    for each in seen:
        found = each if isinstance(each, InputError) else disk_error(each)
        if found is not None:
            return _one_line(str(found))
    text = str(error)
    if choice := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", text):
        group, name = choice.groups()
        known = files(group)
        cure = nearest(name, known, f"correct the name or add configs/{group}/{name}.yaml")
        return f"got {group}={name}; expected one of {', '.join(known)}; cure: {cure}"
    inside = " ".join(str(each) for each in seen)
    unknown = re.search(r"Could not override '([^']+)'", inside)
    if schema and unknown and "not in" in inside:
        keys = set(known_keys(schema))
        if unknown[1] not in keys:
            inner_keys = [key for key in keys if key.rpartition(".")[0] == unknown[1].rpartition(".")[0]]
            cure = nearest(unknown[1], inner_keys or keys, "correct the key, or see --help")
            return f"got {unknown[1]}; expected a key of this command; cure: {cure}"
    if isinstance(error, YAMLError):
        text, inner = f"YAML that cannot be read: {text}", ""
    elif isinstance(error, ValueError) and "Config group override must be" in text:  # data=null
        nulls = [argument for argument in sys.argv[1:] if argument.endswith("=null")]
        text, inner = f"{' '.join(nulls)}: {text}", ""
    elif isinstance(error, (HydraException, OmegaConfBaseException)):
        # Hydra wraps errors: the innermost names the key, or the argument that a constructor did not take.
        innermost = seen[-1] if isinstance(seen[-1], (HydraException, OmegaConfBaseException, TypeError)) else error
        inner = "" if innermost is error else f" ({_one_line(str(innermost))})"
    else:
        return None
    cure = "see --help, or --cfg job for the composed configuration"
    if isinstance(error, OverrideParseException):
        cure = """quote rows twice, for the shell and for Hydra: 'scenarios=[knn,"loss.margin=0.3"]'"""
    return (
        f"got a configuration that cannot be used: {_one_line(text)}{inner}; expected keys and values of "
        f"experiments/configs; cure: {cure}"
    )


def _one_line(text: str) -> str:
    lines = text.partition("Config search path:")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip() and "To append to your config" not in line)


def quieten() -> None:
    """Hides notices of libraries that do not concern the run; warnings of our own stay."""
    for pattern in (
        ".*LeafSpec.*deprecated.*",
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*you defined a `validation_step` but have no `val_dataloader`.*",
        ".*Skipping val loop.*",
        ".*The number of training batches.*",
        ".*ambiguous collection. The batch size we found is.*",
        ".*`pin_memory` .*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        ".*(Experiment logs|Checkpoint) directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message=pattern)
    for name in (
        "pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric",
        "pytorch_lightning.utilities.rank_zero",
    ):  # fmt: skip
        logging.getLogger(name).setLevel(logging.ERROR)
