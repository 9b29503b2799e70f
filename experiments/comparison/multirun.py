# SPDX-License-Identifier: MIT
"""A multirun (`sweep=`, or several values of a key): its runs share sub-networks and end in one merged report."""

import hashlib
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from datamodules.errors import InputError
from datamodules.files import atomic_file, make_folder
from experiments.command_line.terminal import LINE, notes, results
from experiments.reporting.report import merge_reports
from experiments.training.job import Job

# Run folders of this multirun; of each the name of the sweep, if it is one, and its words key=value.
_finished: dict[Path, tuple[str | None, set[str]]] = {}
_values: list[float] = []  # that of the last run, if it ended


def in_multirun() -> bool:
    """Whether this run is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def begins() -> None:
    """A run of the command begins; the first one of a multirun forgets those of an earlier multirun."""
    _values.clear()
    if in_multirun() and HydraConfig.get().job.num == 0:
        _finished.clear()


def value() -> float:
    """What a sweeper may maximise: mean macro F1 in percent of the first scenario of the last run; none is -inf."""
    return _values[0] if _values else -math.inf


def ends(run_folder: Path, value: float) -> None:
    """A run has written its report."""
    _values[:] = [float(value)] if value == value else []
    if in_multirun():
        hydra = HydraConfig.get()
        _finished[run_folder] = hydra.runtime.choices.get("sweep"), set(hydra.overrides.task)


def take_from_siblings(jobs: Iterable[Job], run_folder: Path) -> None:
    """Copies finished sub-networks that another run beside this one has: same data, partition, recipe and seed."""
    for job in jobs:
        if job.record() is not None:
            continue
        for found in sorted(run_folder.parent.glob(f"*/{job.stem.relative_to(run_folder)}.json")):
            other = replace(job, run_folder=str(found.parents[2]))
            if found.parents[2] == run_folder or other.record() is None:
                continue
            make_folder(job.stem.parent)
            for suffix in (".safetensors", ".json"):  # the record last: it says that the job is finished
                with atomic_file(job.stem.with_suffix(suffix)) as temporary:
                    shutil.copyfile(other.stem.with_suffix(suffix), temporary)
            break


def merge() -> int:
    """Merges the finished runs of the multirun into `<runs_dir>/sweep-<what>`; returns the exit code, always 0.

    What cannot be merged is said, and costs no run.
    """
    runs = dict(_finished)
    if len(runs) < 2:
        return 0
    first, words = next(iter(runs)), [set[str](one) for _, one in runs.values()]
    choice = runs[first][0]
    keys = sorted(
        {word.partition("=")[0].lstrip("+") for word in set[str]().union(*words) - words[0].intersection(*words)}
    )
    made_of = hashlib.sha256("".join(sorted(folder.name for folder in runs)).encode()).hexdigest()[:8]
    out = first.parent / f"sweep-{choice or '-'.join([*keys, made_of])}"
    try:
        dropped = merge_reports(list(runs), out)
    except InputError as error:
        notes().print(f"the {len(runs)} runs are not merged: {error}", style="yellow", **LINE)
        return 0
    notes().print(f"{len(runs)} runs merged, {dropped} repeated rows dropped", **LINE)
    results().print(f"report of all {len(runs)} runs: {out / 'report.html'}", **LINE)
    return 0
