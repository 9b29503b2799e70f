# SPDX-License-Identifier: MIT
"""A checkpoint at every epoch's end, without pickle, and the way back from it.

Lightning's own checkpoint is a torch.save file and, since 2.0, promises epoch boundaries only; this one promises the
same with a file that cannot execute code, checks its own content, and is small: weights, optimiser state, history.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from callbacks.history import History
from datamodules.errors import InputError
from datamodules.files import make_folder, replace_file

log = logging.getLogger(__name__)

KEPT = 2  # the newest may be damaged; the one before it then costs one epoch more
UNSYNCED_SECONDS = 1.0  # waiting for the disk costs some 10 ms: nothing beside a long epoch, much beside a short one


class EpochCheckpoint(Callback):
    """Keeps the state after each finished epoch beside the job's files, and starts from the newest that is intact.

    Weights and batch order depend on (seed, sub-network, epoch), so a fit that goes on from a checkpoint ends with
    the same weights, bit for bit, as one that was never stopped.

    Args:
        stem: path without suffix; files are `<stem>.epoch-0001.safetensors` and so on.
        key: what the weights depend on; a checkpoint of another key is not used.
        history: the values logged so far are kept with the weights.
        every: epochs between two checkpoints.
    """

    def __init__(self, stem: Path, key: str, history: History, every: int = 1):
        self.stem, self.key, self.history, self.every = Path(stem), key, history, every
        self._last = time.monotonic()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Goes on after the newest intact checkpoint, if there is one."""
        if (newest := newest_checkpoint(self.stem, self.key, trainer.is_global_zero)) is None:
            return
        state, facts = newest
        part: Callable | None = getattr(module, "part", None)
        state = part(state) if part else state
        module.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("model.")})
        load_optimizer(trainer.optimizers[0], state, facts["optimizer"])
        for logger in trainer.loggers:  # the history, and loggers whose record of the earlier epochs is gone
            if hasattr(logger, "restore"):
                logger.restore(facts["history"])
        skip_epochs(trainer, facts["epoch"])
        log.info("goes on after epoch %d of %s", facts["epoch"], self.stem)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the state before the coming epoch: only now has the history everything of the last one."""
        epoch = trainer.current_epoch
        if epoch == 0 or epoch % self.every:
            return
        tensors, optimizer = optimizer_state(trainer.optimizers[0].state_dict())
        tensors |= {f"model.{name}": value for name, value in module.state_dict().items()}
        whole: Callable | None = getattr(module, "whole", None)
        if whole:  # a module whose parameters lie on several ranks, all of which must take part
            tensors = whole(tensors)
        if not trainer.is_global_zero or epoch in epoch_files(self.stem):
            return
        facts = {"key": self.key, "epoch": epoch, "history": self.history.records, "optimizer": optimizer}
        now = time.monotonic()
        sync, self._last = now - self._last > UNSYNCED_SECONDS, now
        keep_checkpoint(self.stem, tensors, facts, sync)


def epoch_files(stem: Path) -> dict[int, Path]:
    """Checkpoints of a job: epoch -> file.

    Args:
        stem: path of the job's files without suffix.
    """
    pattern = re.compile(re.escape(stem.name) + r"\.epoch-(\d+)\.safetensors")
    matches = ((pattern.fullmatch(file.name), file) for file in stem.parent.glob(f"{stem.name}.epoch-*.safetensors"))
    return {int(match[1]): file for match, file in matches if match}


def newest_checkpoint(stem: Path, key: str, tidy: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of the newest intact checkpoint of a job; None where there is none.

    Args:
        stem: path of the job's files without suffix.
        key: that it must have been written for.
        tidy: whether to remove those that are not: their epochs are trained again, and shall be kept again.
    """
    for _, file in sorted(epoch_files(stem).items(), reverse=True):
        try:
            return read_checkpoint(file, key)
        except InputError as error:
            log.warning("%s; the checkpoint before it is used", error)
            if tidy:
                file.unlink(missing_ok=True)
    return None


def keep_checkpoint(stem: Path, tensors: dict[str, Tensor], facts: dict[str, Any], sync: bool = False) -> None:
    """Writes the checkpoint of an epoch and removes all but the two newest.

    Args:
        stem: path of the job's files without suffix.
        tensors: `model.<name>`, and what `optimizer_state` gives.
        facts: key, epoch, history, optimizer.
        sync: see `write_checkpoint`.
    """
    write_checkpoint(stem.with_suffix(f".epoch-{facts['epoch']:04d}.safetensors"), tensors, facts, sync)
    for old in sorted(epoch_files(stem).items())[:-KEPT]:
        old[1].unlink(missing_ok=True)


def write_checkpoint(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any], sync: bool = False) -> None:
    """Writes tensors and facts in one safetensors file with a digest over both.

    Args:
        file: where; it is replaced in one step.
        tensors: names and values.
        facts: JSON values.
        sync: whether to wait until the disk has it; else a process that dies loses nothing, and what a power cut
            leaves of it is found by the digest.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(facts)
    make_folder(file.parent)
    with replace_file(file, sync) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"facts": text, "sha256": _digest(tensors, text)})


def read_checkpoint(file: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_checkpoint` wrote.

    Args:
        file: the checkpoint.
        key: that it must have been written for.

    Returns:
        Tensors and facts.

    Raises:
        InputError: truncated, altered, or written for another key.
    """
    cure = "nothing, the checkpoint before it is used"
    try:
        with safetensors.safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}
        intact = metadata.get("sha256") == _digest(tensors, metadata.get("facts", ""))
        facts = json.loads(metadata["facts"]) if intact else {}
    except Exception as error:  # safetensors and json name damage in several ways
        raise InputError(f"{file}, unreadable ({error})", "a checkpoint", cure) from None
    if not intact:
        raise InputError(f"{file}, truncated or altered", "the content its digest was made of", cure)
    if facts.get("key") != key:
        raise InputError(f"{file} of key {facts.get('key')}", key, cure)
    return tensors, facts


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)  # a view: nothing is copied
    return digest.hexdigest()


def optimizer_state(content: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `Optimizer.state_dict` gives, as named tensors and JSON values.

    Args:
        content: the state dict.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in content["state"].items():
        for name, value in values.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else plain
            target[f"optimizer.{index}.{name}"] = value
    return tensors, {"plain": plain, "param_groups": content["param_groups"]}


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Gives an optimiser the state that `optimizer_state` took apart.

    Args:
        optimizer: of as many parameters.
        tensors, facts: of the checkpoint.
    """
    state: dict[int, dict[str, Any]] = {}
    for full, value in [*tensors.items(), *facts["plain"].items()]:
        if full.startswith("optimizer."):
            _, index, name = full.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    # JSON has no tuples; torch compares betas with nothing, but keep what the optimiser itself holds.
    optimizer.load_state_dict({"state": state, "param_groups": facts["param_groups"]})


def skip_epochs(trainer: Trainer, epoch: int) -> None:
    """Lets a fit that begins go on after an epoch.

    Args:
        trainer: of the fit, in its `on_train_start`.
        epoch: epochs that are done.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = epoch
    # Loggers count optimiser steps; W&B drops values whose step is lower than one it has seen.
    steps = int(epoch * trainer.num_training_batches)
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = steps
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps
