# SPDX-License-Identifier: MIT
"""Lightning's checkpoints as safetensors files: no pickle, and a digest that finds damage.

Weights and batch order depend on (seed, sub-network, epoch), so a fit that goes on from a checkpoint ends with the
weights of one that was never stopped.
"""

import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from datamodules.errors import InputError
from datamodules.files import make_folder, replace_file

log = logging.getLogger(__name__)

KEPT = 2  # the newest may be damaged; the one before it then costs one epoch more
UNSYNCED_SECONDS = 1.0  # waiting for the disk costs some 10 ms, a quarter of an epoch of 500 identities


class SafetensorsIO(CheckpointIO):
    """Writes a checkpoint as one safetensors file: tensors as tensors, everything else as JSON in its header.

    Args:
        lineage: what the weights depend on; it is stored, and a file of another lineage is not read.
    """

    def __init__(self, lineage: str):
        self.lineage, self._synced = lineage, time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes the file, whole or not at all. It waits for the disk at most once a second.

        Raises TypeError: a value that is no tensor, number, string or None, nor a list, tuple or dictionary of these.
        """
        now = time.monotonic()
        if sync := now - self._synced > UNSYNCED_SECONDS:
            self._synced = now
        tensors: dict[str, Tensor] = {}
        content = json.dumps(_plain(checkpoint, "", tensors))
        facts = {"lineage": self.lineage, "epoch": str(checkpoint["epoch"]), "content": content}
        make_folder(Path(path).parent)
        with replace_file(path, sync) as temporary:
            safetensors.torch.save_file(tensors, temporary, {**facts, "sha256": _digest(tensors, content)})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a file, tensors on the CPU. Raises InputError: truncated, altered, or of another lineage."""
        cure = "nothing, the checkpoint before it is used"
        try:
            with safetensors.safe_open(path, framework="pt") as stream:
                facts = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}
            intact = facts.get("sha256") == _digest(tensors, facts.get("content", ""))
        except Exception as error:  # safetensors names damage in several ways
            raise InputError(f"{path}, unreadable ({error})", "a checkpoint", cure) from None
        if not intact:
            raise InputError(f"{path}, truncated or altered", "the content its digest was made of", cure)
        if facts.get("lineage") != self.lineage:
            raise InputError(f"{path} of lineage {facts.get('lineage')}", self.lineage, cure)
        return _tree(json.loads(facts["content"]), tensors)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        while name in tensors:  # {"a": {"b": x}, "a/b": y}
            name += "'"
        # safetensors refuses two tensors that share memory.
        tensors[name] = value.detach().cpu().clone() if value.device.type == "cpu" else value.detach().cpu()
        tensors[name] = tensors[name].contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise TypeError(f"got {type(key).__name__} as a key of {name} of a checkpoint; expected str or int")
        return {"dict": [[key, _plain(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"got {type(value).__name__} at {name} of a checkpoint; expected tensors, numbers and strings")


def _tree(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _tree(item, tensors) for key, item in content}
    items = [_tree(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)  # a view: nothing is copied
    return digest.hexdigest()


class EpochCheckpoints(ModelCheckpoint):
    """Keeps the two newest epochs as `<stem>.epoch-0000.safetensors` and so on."""

    FILE_EXTENSION = ".safetensors"

    def __init__(self, stem: Path, every: int = 1):
        super().__init__(
            dirpath=stem.parent, filename=f"{stem.name}.epoch-{{epoch:04d}}", auto_insert_metric_name=False,
            monitor="epoch", mode="max", save_top_k=KEPT, every_n_epochs=every, save_on_train_epoch_end=True,
            enable_version_counter=False,
        )  # fmt: skip


def epoch_files(stem: Path) -> dict[int, Path]:
    """Checkpoints of a job: number of the finished epoch, from 0 -> file."""
    pattern = re.compile(re.escape(stem.name) + r"\.epoch-(\d+)\.safetensors")
    matches = ((pattern.fullmatch(file.name), file) for file in stem.parent.glob(f"{stem.name}.epoch-*.safetensors"))
    return {int(match[1]): file for match, file in matches if match}


def newest_checkpoint(stem: Path, lineage: str, max_epochs: int) -> Path | None:
    """The newest intact checkpoint of at most `max_epochs` epochs; None if there is none. Damaged ones are removed.

    A finished sub-network of the same lineage, beside the folder of `stem`, counts as well. `stem` has no suffix.
    """
    reader = SafetensorsIO(lineage)
    stems = [stem, *(folder / stem.name for folder in stem.parent.parent.glob("*") if folder != stem.parent)]
    found = [(one == stem, epoch, file) for one in stems for epoch, file in epoch_files(one).items()]
    for own, epoch, file in sorted(found, reverse=True):
        if epoch >= max_epochs:
            continue
        try:
            reader.load_checkpoint(file)
            return file
        except InputError as error:
            if own:
                log.warning("%s; the checkpoint before it is used", error)
                file.unlink(missing_ok=True)  # its epoch is trained again, and shall be kept again
    return None
