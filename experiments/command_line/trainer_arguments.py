# SPDX-License-Identifier: MIT
"""The keys of `trainer`: arguments of `pl.Trainer`, and a few of our own."""

import ast
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError, nearest
from experiments.command_line.choices import CONFIGS

CONSTANT = "lightning_modules.schedulers.constant"

# Keys that `fit` and the head use; the Trainer does not get them.
OUR_KEYS = (
    "batch_size", "matmul", "max_logits_mb", "threads", "checkpoint_every_n_epochs", "steps_per_call",
)  # fmt: skip
# Arguments of the Trainer that `fit` sets, and the key to use instead.
SET_ELSEWHERE = {
    "logger": "logger=", "callbacks": "callbacks=[...]", "plugins": "no plugin", "num_nodes": "launcher=torchrun",
    "use_distributed_sampler": "nothing: batches are dealt to the ranks", "barebones": "nothing",
}  # fmt: skip
COUNTS = ("max_epochs", "max_logits_mb", "devices", "check_val_every_n_epoch", "threads", "checkpoint_every_n_epochs")
CHOICES = {"matmul": ("highest", "high", "medium", "low"), "accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu")}
COUNTS_OR_AUTO = ("batch_size", "steps_per_call")


def defaults(name: str = "subnetwork") -> dict[str, Any]:
    """The content of `configs/trainer/<name>.yaml`."""
    return yaml.safe_load((CONFIGS / "trainer" / f"{name}.yaml").read_text(encoding="utf-8"))


def check_callbacks(callbacks: Mapping[str, Any]) -> None:
    """Refuses nodes that do not build a callback.

    Raises:
        InputError: no `_target_`, or one that is no callback.
        InstantiationException: an argument that a callback does not take.
    """
    for name, node in callbacks.items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise InputError(
                f"callbacks.{name} without _target_", "a node with _target_",
                f"begin configs/callbacks/<file>.yaml with the line # @package callbacks.{name}",
            )  # fmt: skip
        from hydra.utils import instantiate
        from pytorch_lightning import Callback  # late: it takes seconds

        if not isinstance(made := instantiate(node), Callback):
            raise InputError(f"callbacks.{name} of {type(made).__name__}", "a Lightning Callback", "correct _target_")


@cache
def lightning_arguments() -> tuple[str, ...]:
    """Names of the arguments of `pl.Trainer`, read from its source: importing it would take seconds."""
    source = Path(str(importlib.util.find_spec("pytorch_lightning").origin)).parent / "trainer" / "trainer.py"
    classes = [one for one in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(one, ast.ClassDef)]
    (trainer,) = (one for one in classes if one.name == "Trainer")
    (init,) = (one for one in trainer.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
    return tuple(argument.arg for argument in init.args.kwonlyargs)


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuses values that would fail only after the run has begun: `check_keys` and `check_lightning`."""
    check_keys(trainer)
    check_lightning(trainer)


def check_keys(trainer: Mapping[str, Any]) -> None:
    """Refuses, with an `InputError`, an unknown key or accelerator, and a count below 1; does not import Lightning."""
    known = sorted({*lightning_arguments(), *OUR_KEYS} - {*SET_ELSEWHERE})
    for key in trainer:
        if key in SET_ELSEWHERE:
            raise InputError(f"trainer.{key}", "a key that is not set elsewhere", f"use {SET_ELSEWHERE[key]}")
        if key not in known:
            expected = f"an argument of Lightning's Trainer or {', '.join(OUR_KEYS)}"
            raise InputError(f"trainer.{key}", expected, nearest(str(key), known, "correct the key"))
    for key in (*COUNTS, *COUNTS_OR_AUTO):
        other = "auto" if key in COUNTS_OR_AUTO else None
        value = trainer.get(key, other)
        if value != other and (type(value) is not int or value < 1):
            wanted = "a whole number, at least 1" if other is None else "at least 1, or auto"
            raise InputError(f"trainer.{key} = {value}", wanted, f"correct trainer.{key}")
    for key, choices in CHOICES.items():
        if key in trainer and (value := trainer[key]) not in choices:
            cure = nearest(str(value), choices, "correct it")
            raise InputError(f"trainer.{key} = {value}", f"one of {', '.join(choices)}", cure)


def check_lightning(trainer: Mapping[str, Any]) -> None:
    """Refuses, with an `InputError`, a value that Lightning refuses on this machine."""
    import pytorch_lightning as pl  # late: it takes seconds
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    arguments = {key: value for key, value in trainer.items() if key not in (*OUR_KEYS, "fast_dev_run")}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}

    def refusal(keys: Iterable[str]) -> str:
        chosen = {key: arguments[key] for key in keys}
        try:
            with warnings.catch_warnings(action="ignore"):  # the run itself warns
                pl.Trainer(**{**chosen, **quiet, "devices": 1, "strategy": "auto"}, logger=False)
        except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            return " ".join(str(error).split())
        return ""

    if reason := refusal(arguments):
        keys = next(([key] for key in arguments if refusal([key])), list(arguments))
        values = ", ".join(f"trainer.{key} = {arguments[key]}" for key in keys)
        expected = "what Lightning's Trainer takes on this machine"
        raise InputError(f"{values} ({reason})", expected, "correct it, or leave it out")
