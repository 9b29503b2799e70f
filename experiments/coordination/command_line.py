# SPDX-License-Identifier: MIT
"""The frame around every command: Hydra composes a closed config, errors become one line, exit codes mean something.

Exit codes: 0 done; 1 some part failed (the table says which); 2 the input, or the disk, cannot be used; 130 stopped by
Ctrl-C or SIGTERM.
"""

import dataclasses
import functools
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
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.errors import InputError, nearest
from datamodules.files import disk_error
from experiments.coordination.screen import FLAGS_HELP, show_error, showing, without_flags
from experiments.training.arguments import CONFIGS, check_callbacks, check_trainer


def command(config_name: str, schema: type | None = None) -> Callable[[Callable[[DictConfig], int | None]], Callable]:
    """Makes a command of a function that takes the composed config.

    The function itself imports what takes long to load: --help and a mistyped key are answered at once.

    Args:
        config_name: the root config, `experiments/configs/<config_name>.yaml`. Its help text is in `hydra.help`.
        schema: dataclass of the root config's keys. Stored as `<config_name>_schema`; the root config names it first
            in its defaults list, so that a key it does not have is refused wherever it is written.

    Returns:
        A decorator; the decorated function takes no argument and ends the process with an exit code.
    """
    if schema is not None:
        ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)

    def decorate(function: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        def main() -> None:
            result: list[int | None] = []

            @functools.wraps(function)
            def task(cfg: DictConfig) -> None:
                with next_cell(result), errors_as_one_line():  # before Hydra prints a line of its own
                    if schema is not None:
                        refuse_unknown(schema, cfg)  # +key=value passes Hydra
                    result.append(_coordinate(function, cfg))

            # Hydra prints errors its own way and leaves with 1; in this mode it raises them, and we print one line.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            signal.signal(signal.SIGTERM, _stop)
            with errors_as_one_line():
                words, level = without_flags(sys.argv[1:])
                if schema is not None and "scenario" in {field.name for field in dataclasses.fields(schema)}:
                    words = [as_row(word) for word in words]
                if {"--help", "-h"} & set(words):
                    print(help_text(config_name))  # Hydra's own would first list every group, which takes a second
                    sys.exit(0)
                # Any argument of Lightning's Trainer can be added; `check_trainer` refuses what is none.
                sys.argv[1:] = [re.sub(r"^trainer\.", "++trainer.", word) for word in words]
                with showing(level):
                    if level != "verbose":
                        quieten()
                    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)()
            sys.exit(max((code or 0 for code in result), default=0))

        return main

    return decorate


def help_text(config_name: str) -> str:
    """What a command says with --help: `hydra.help.template` of its root config."""
    content = yaml.safe_load((CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8"))
    return f"{content['hydra']['help']['template'].rstrip()}\n{FLAGS_HELP}"


def as_row(word: str) -> str:
    """`scenario=ROW` in the words of Hydra, which would look for a file ROW in the group configs/scenario.

    >>> as_row("scenario=ism"), as_row("scenario=loss.margin=0.3"), as_row("seed=3")
    ('scenario.name=ism', 'scenario.name="loss.margin=0.3"', 'seed=3')
    """
    key, _, row = word.partition("=")
    if key != "scenario":
        return word
    return f"scenario.name={row}" if "=" not in row or row[0] in "\"'" else f'scenario.name="{row}"'


def _coordinate(function: Callable[[DictConfig], int | None], cfg: DictConfig) -> int | None:
    if "logger" in cfg:
        instantiate(cfg.logger)  # what cannot be built is refused before anything is written
    if isinstance(OmegaConf.select(cfg, "trainer"), DictConfig) and OmegaConf.get_type(cfg.trainer) is dict:  # open
        check_trainer(cfg.trainer)
        check_callbacks(cfg.get("callbacks") or {})
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


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def next_cell(codes: list[int | None]) -> Iterator[None]:
    """In a multirun, a cell that fails is named and costs no other cell; a stop by the user ends them all.

    Args:
        codes: exit codes of the cells so far; that of a cell which ends with an error is added.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        yield
        return
    before, cell = len(codes), " ".join(hydra_config.overrides.task)
    try:
        yield
    except SystemExit as ended:
        if ended.code == 130:
            raise
        codes.append(int(ended.code or 0))
    except Exception:
        traceback.print_exc()
        codes.append(1)
    failed = next((code for code in codes[before:] if code), 0)
    if failed:
        print(f"failed with exit code {failed}: {cell}", file=sys.stderr)


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Turns what a user can mend into one line on standard error and exit code 2."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, repeat the command to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (line := as_input_error(error)) is None:
            raise  # a defect of ours: the traceback is what helps
        show_error(line)
        sys.exit(2)


def refuse_unknown(schema: type, cfg: DictConfig, prefix: str = "") -> None:
    """Refuses keys that a dataclass, or a dataclass inside it, does not have.

    Raises:
        InputError: a key too many.
    """
    known = {field.name: field.type for field in dataclasses.fields(schema)}
    for key in cfg:
        if key not in known:
            expected = f"one of {', '.join(prefix + name for name in known)}"
            raise InputError(f"{prefix}{key}", expected, "correct the key")
        inner = known[key]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            refuse_unknown(inner, cfg[key], f"{prefix}{key}.")


def as_input_error(error: BaseException) -> str | None:
    """The one line for an error that the user's input caused, None for any other error."""
    chain: BaseException | None = error
    seen: list[BaseException] = []
    while chain is not None and not any(chain is each for each in seen):  # an error may be its own cause
        seen.append(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    for each in seen:
        if isinstance(each, InputError):
            return _one_line(str(each))
        if (disk := disk_error(each)) is not None:
            return _one_line(str(disk))
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # data=null
        nulls = [argument for argument in sys.argv[1:] if argument.endswith("=null")]
        error = HydraException(f"{' '.join(nulls)}: {error}")
        seen = [error]
    if isinstance(error, YAMLError):
        error = HydraException(f"YAML that cannot be read: {error}")
        seen = [error]
    if choice := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", str(error)):
        group, name = choice.groups()
        known = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
        cure = nearest(name, known, f"correct the name or add configs/{group}/{name}.yaml")
        return f"got {group}={name}; expected one of {', '.join(known)}; cure: {cure}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        # Hydra wraps: the innermost message names the key, or the argument a constructor did not take.
        innermost = seen[-1] if isinstance(seen[-1], (HydraException, OmegaConfBaseException, TypeError)) else error
        inner = "" if innermost is error else f" ({_one_line(str(innermost))})"
        cure = "see --help, or --cfg job for the composed configuration"
        if isinstance(error, OverrideParseException):
            cure = """quote rows twice, for the shell and for Hydra: 'scenarios=[knn,"loss.margin=0.3"]'"""
        return (
            f"got a configuration that cannot be used: {_one_line(str(error))}{inner}; expected keys and values of "
            f"experiments/configs; cure: {cure}"
        )
    return None


def _one_line(text: str) -> str:
    text = text.partition("Config search path:")[0]
    text = "\n".join(line for line in text.splitlines() if "To append to your config" not in line)
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def quieten() -> None:
    """Hides notices of libraries that say nothing about the run; warnings of our own stay."""
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
