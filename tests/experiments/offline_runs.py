# SPDX-License-Identifier: MIT
"""Reads W&B's offline folders: what `wandb sync` would send."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, FILE_HEADER, PIECE_HEADER = 32768, 7, struct.Struct("<IHB")  # LevelDB's log format: checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def offline_runs(run_folder: Path) -> list[dict]:
    """One entry per offline folder, in the order of their ids: id, group, type, name, epochs of the training loss."""
    return sorted((_read(folder) for folder in run_folder.glob("wandb/offline-run-*")), key=lambda run: run["id"])


def _read(folder: Path) -> dict:
    found = {"epochs": []}
    for content in _records(next(folder.glob("run-*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            run = record.run
            found |= {"id": run.run_id, "group": run.run_group, "type": run.job_type, "name": run.display_name}
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if "train/loss" in items:
                found["epochs"].append(int(items["epoch"]))
    return found


def _records(content: bytes) -> Iterator[bytes]:
    place, parts = FILE_HEADER, []
    while place + PIECE_HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < PIECE_HEADER.size:
            place += left
            continue
        _, length, kind = PIECE_HEADER.unpack_from(content, place)
        place += PIECE_HEADER.size
        parts.append(content[place : place + length])
        place += length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
