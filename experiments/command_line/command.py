# SPDX-License-Identifier: MIT
"""The frame of every command: Hydra composes the configuration, errors become one line, the exit code tells the end.

Exit codes: 0 done; 1 a part failed (the table names it); 2 the input or the disk cannot be used; 130 stopped by Ctrl-C
or SIGTERM.
"""

import logging
import math
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
from hydra.types import RunMode
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from experiments.command_line.choices import CONFIGS
from experiments.command_line.errors import errors_as_one_line, refuse_missing
from experiments.command_line.inputs import check_inputs
from experiments.command_line.node_types import check_types
from experiments.command_line.terminal import FLAGS_HELP, note_typed, verbosity, without_flags
from experiments.command_line.trainer_arguments import check_callbacks, check_keys, check_lightning
from experiments.command_line.words import for_hydra


def command(
    config_name: str, schema: type, work: str, after_multirun: str | None = None, check: str | None = None,
    value: str | None = None,
) -> Callable[[], None]:  # fmt: skip
    """Makes a command: a function without arguments that ends the process with an exit code.

    Args:
        config_name: the root config, `experiments/configs/<config_name>.yaml`. Its help text is in `hydra.help`.
        schema: dataclass of the root config's keys. It is stored as `<config_name>_schema`. The root config names it
            first in its defaults list, so that Hydra refuses any other key.
        work: dotted name of the function that takes the composed config and returns an exit code or None. It is
            imported after keys and inputs are checked, so that --help and wrong input are answered at once.
        after_multirun: dotted name of a function without arguments that is called after the last run of a multirun.
        check: dotted name, in a module that imports nothing heavy, of a function of a config and its EmbeddingSet.
        value: dotted name of a function without arguments: after a run, the number that Hydra's sweeper gets.
    """
    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)

    def main() -> None:
        codes: list[int | None] = []
        multirun = False

        def task(cfg: DictConfig) -> float | None:
            nonlocal multirun
            multirun = HydraConfig.get().mode == RunMode.MULTIRUN
            with multirun_goes_on(codes), errors_as_one_line():  # before Hydra prints a line of its own
                refuse_missing(schema, cfg)
                opened = check_values(cfg)
                if check:
                    get_method(check)(cfg, opened)
                codes.append(_run(work, cfg))
                return get_method(value)() if value else None
            return -math.inf if value else None  # a run of a multirun that failed; NaN would end Optuna's sweep

        # Hydra prints errors in its own way and exits with 1; with this variable it raises them, and we print one line.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with errors_as_one_line(schema, config_name):
            note_typed(config_name, sys.argv[1:])
            words, level = without_flags(sys.argv[1:])
            if {"--help", "-h"} & set(words):
                # Hydra's own help would first list every group, which takes a second.
                content = yaml.safe_load((CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8"))
                print(f"{content['hydra']['help']['template'].rstrip()}\n{FLAGS_HELP}")
                sys.exit(0)
            words = for_hydra(words, config_name, schema)
            # Any argument of Lightning's Trainer can be added; `check_keys` refuses the others.
            sys.argv[1:] = [re.sub(r"^trainer\.", "++trainer.", word) for word in words]
            with verbosity(level):
                if level != "verbose":
                    quieten()
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)()
                if multirun and after_multirun and not all(codes):  # some run ended well
                    codes.append(get_method(after_multirun)())
        sys.exit(max((code or 0 for code in codes), default=0))

    return main


def check_values(cfg: DictConfig) -> EmbeddingSet | None:
    """Refuses values and inputs that no command can use, without heavy imports; returns as `check_inputs`."""
    name = cfg.get("name")
    if name and "runs_dir" in cfg and (name in (".", "..") or set(name) & set("/\\")):
        raise InputError(f"name={name}", "the name of a folder inside runs_dir", "set runs_dir= for another place")
    for key in ("seed", "seeds"):
        value = cfg.get(key)
        given = value if isinstance(value, ListConfig) else [value]
        if negative := [one for one in given if isinstance(one, int) and one < 0]:
            raise InputError(f"{key} with {negative[0]}", "numbers of at least 0", f"correct {key}=")
    if isinstance(cfg.get("trainer"), DictConfig) and OmegaConf.get_type(cfg.trainer) is dict:  # open to other keys
        check_keys(cfg.trainer)
    return check_inputs(cfg)


def _run(work: str, cfg: DictConfig) -> int | None:
    function = get_method(work)
    check_types(OmegaConf.to_container(cfg, resolve=True))
    if "logger" in cfg:
        instantiate(cfg.logger)  # a logger that cannot be built is refused before anything is written
    if isinstance(cfg.get("trainer"), DictConfig):
        check_lightning(cfg.trainer)
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
