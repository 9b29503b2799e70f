# SPDX-License-Identifier: MIT
"""The keys of `trainer`: arguments of `pl.Trainer` by their names, and a few of our own.

Imports nothing heavy: a misspelt key is answered at once.
"""

import ast
import difflib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import InputError

CONSTANT = "lightning_modules.schedulers.constant"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# What `fit` and the head take for themselves.
OURS = (
    "batch_size", "matmul", "compile", "max_logits_mb", "threads", "checkpoint_every_n_epochs", "steps_per_call",
)  # fmt: skip
# What `fit` decides; the cure names the key to use.
TAKEN = {
    "logger": "logger=", "callbacks": "callbacks=[...]", "plugins": "no plugin", "num_nodes": "launcher=torchrun",
    "use_distributed_sampler": "nothing: batches are dealt to the ranks", "barebones": "nothing",
}  # fmt: skip
_COUNTED = ("max_epochs", "max_logits_mb", "devices", "check_val_every_n_epoch", "threads", "checkpoint_every_n_epochs")
COUNTS = {
    **dict.fromkeys(_COUNTED, "a whole number, at least 1"),
    "batch_size": "at least 1, or auto", "steps_per_call": "auto, or at least 1",
}  # fmt: skip


def defaults(name: str = "subnetwork") -> dict[str, Any]:
    """Keys and values of `configs/trainer/<name>.yaml`."""
    return yaml.safe_load((CONFIGS / "trainer" / f"{name}.yaml").read_text(encoding="utf-8"))


def check_callbacks(callbacks: Mapping[str, Any]) -> None:
    """Refuses nodes that no callback can be made of.

    Raises:
        InputError: see the message.
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
    found = importlib.util.find_spec("pytorch_lightning")
    assert found is not None and found.origin is not None
    source = (Path(found.origin).parent / "trainer" / "trainer.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Trainer"]
    (init,) = [node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return tuple(argument.arg for argument in init.args.kwonlyargs)


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuses what would fail only after the run has begun.

    Raises:
        InputError: an unknown key, a count below 1, or an unknown precision.
    """
    known = sorted({*lightning_arguments(), *OURS} - {*TAKEN})
    for key in trainer:
        if key in TAKEN:
            raise InputError(f"trainer.{key}", "a key that is not set elsewhere", f"use {TAKEN[key]}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            expected = f"trainer.{near[0]}" if near else f"an argument of Lightning's Trainer or {', '.join(OURS)}"
            raise InputError(f"trainer.{key}", expected, "correct the key")
    for key, wanted in COUNTS.items():
        other = "auto" if "auto" in wanted else None
        value = trainer.get(key, other)
        if value != other and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"trainer.{key} = {value}", wanted, f"correct trainer.{key}")
    if (matmul := trainer.get("matmul", "medium")) not in ("highest", "high", "medium"):
        raise InputError(f"trainer.matmul = {matmul}", "highest, high or medium", "correct trainer.matmul")
    import pytorch_lightning as pl  # late: it takes seconds, and --help needs it not
    from pytorch_lightning.accelerators import AcceleratorRegistry
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    accelerators = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
    if (accelerator := trainer.get("accelerator", "auto")) not in accelerators:
        raise InputError(f"trainer.accelerator = {accelerator}", f"one of {', '.join(accelerators)}", "correct it")
    arguments = {key: value for key, value in trainer.items() if key not in (*OURS, "fast_dev_run")}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    try:
        pl.Trainer(**{**arguments, **quiet, "devices": 1, "strategy": "auto"}, logger=False)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        reason, usual = " ".join(str(error).split()), defaults()
        stated = ", ".join(f"trainer.{key} = {value}" for key, value in arguments.items() if usual.get(key) != value)
        raise InputError(f"{stated} ({reason})", "values that Lightning's Trainer takes", "correct them") from None
