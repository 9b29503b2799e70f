# SPDX-License-Identifier: MIT
"""Reads W&B's offline folders: what `wandb sync` would send."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, FILE_HEADER, PIECE_HEADER = 32768, 7, struct.Struct("<IHB")  # LevelDB's log format: checksum, length, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def offline_runs(run_folder: Path) -> list[dict]:
    """One entry per offline folder, in the order of their ids.

    Each has id, group, type, name, tags, config, logged (the last value of every key), summary, epochs (of the training
    loss) and files (of its artifacts).
    """
    return sorted((_ended(folder) for folder in run_folder.glob("wandb/offline-run-*")), key=lambda run: run["id"])


def _ended(folder: Path) -> dict:
    # W&B's own process writes the file; on a busy machine it may still be at it when the run has been finished.
    for _ in range(200):
        found = _read(folder)
        if found["ended"]:
            break
        time.sleep(0.1)
    return found


def _read(folder: Path) -> dict:
    found = {"epochs": [], "ended": False, "logged": {}, "summary": {}, "files": [], "config": {}}
    for content in _records(next(folder.glob("run-*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            run = record.run
            found |= {"id": run.run_id, "group": run.run_group, "type": run.job_type, "name": run.display_name}
            found |= {"tags": list(run.tags), "project": run.project}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        found["ended"] |= record.HasField("exit")
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["logged"] |= items
            if "train/loss" in items:
                found["epochs"].append(int(items["epoch"]))
        if record.HasField("summary"):
            found["summary"] |= {item.key: json.loads(item.value_json) for item in record.summary.update}
        if record.HasField("request") and record.request.HasField("log_artifact"):
            found["files"] += [entry.path for entry in record.request.log_artifact.artifact.manifest.contents]
        if record.HasField("artifact"):
            found["files"] += [entry.path for entry in record.artifact.manifest.contents]
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
