# SPDX-License-Identifier: MIT
"""Readers of embeddings in .safetensors, .pt and .h5 files, by blocks of rows. Axes: B of a block, D dimensions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import InputError, needed_package
from datamodules.sources.array_readers import BLOCK_BYTES, Block, choose_one


def _blocks(where: str, stored: Any, shape: tuple[int, ...], ndim: int) -> Iterator[np.ndarray]:
    if len(shape) != ndim or 8 * (width := int(np.prod(shape[1:], dtype=object))) > BLOCK_BYTES:
        raise InputError(f"{where} of shape {tuple(shape)}", f"{ndim} axes, rows first", "store it so")
    for first in range(0, shape[0] if width else 0, step := BLOCK_BYTES // (8 * width or 1)):
        yield _plain(stored[first : first + step])


def _plain(block: Any) -> np.ndarray:
    if isinstance(block, np.ndarray):
        return block
    import torch  # late: 260 MiB

    return (block.float() if block.dtype == torch.bfloat16 else block).detach().numpy()


def _both(path: Path, content, names: list[str], column: str | None, label: str | None, shape_of) -> Iterator[Block]:
    column, label = choose_one(path, names, column, label)
    rows, labels = content(column), content(label) if label is not None else None
    yield from ((rows_BD, None) for rows_BD in _blocks(f"{path}: {column}", rows, shape_of(rows), 2))
    if label is not None:
        yield from ((None, labels_B) for labels_B in _blocks(f"{path}: {label}", labels, shape_of(labels), 1))


def _safetensors(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        yield from _both(path, file.get_slice, list(file.keys()), column, label, lambda part: part.get_shape())


def _torch(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    import torch

    found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    found = {"embeddings": found} if isinstance(found, torch.Tensor) else found
    if not isinstance(found, dict):
        raise InputError(f"{path} with a {type(found).__name__}", "a tensor, or a dictionary of them", "save it so")
    parts = {str(name): one if isinstance(one, torch.Tensor) else np.array(one, object) for name, one in found.items()}
    for name, one in parts.items():
        if isinstance(one, torch.Tensor) and one.numel() * one.element_size() > one.untyped_storage().nbytes():
            raise InputError(f"{path}: {name}, larger than its content", "a whole tensor", "save tensor.contiguous()")
    yield from _both(path, parts.__getitem__, list(parts), column, label, lambda part: part.shape)


def _hdf5(path: Path, column: str | None, label: str | None) -> Iterator[Block]:
    with needed_package("h5py", "h5py for this file", "pip install 'clusterface[arrays]'"):
        import h5py
    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
        yield from _both(path, file.__getitem__, names, column, label, lambda part: part.shape)


READERS = {".safetensors": _safetensors, ".pt": _torch, ".pth": _torch, ".h5": _hdf5, ".hdf5": _hdf5}
