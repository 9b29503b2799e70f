# SPDX-License-Identifier: MIT
"""Runs the groups of a suite, keeping each finished one, so that a repeated command goes on where it stopped."""

import logging
import shutil
from dataclasses import asdict
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from datamodules.errors import InputError
from datamodules.files import read_json, write_json
from experiments.benchmarks.config import Bench, Group, chosen_groups
from experiments.benchmarks.pairing import Skipped
from experiments.benchmarks.summary import line
from experiments.coordination.run_folder import RunFolder

log = logging.getLogger(__name__)


def build_groups(cfg: DictConfig) -> dict[str, Group]:
    """The chosen groups of the suite, built before anything is written, so that a wrong argument costs nothing.

    Raises:
        InputError: an unknown name in `only`, or a node that builds no group.
    """
    groups = {name: instantiate(cfg.suite[name]) for name in chosen_groups(cfg)}
    for name, group in groups.items():
        if not isinstance(group, Group):
            raise InputError(f"suite.{name} of class {type(group).__name__}", "a Group", "correct its _target_")
    return groups


def run_groups(
    groups: dict[str, Group], run: RunFolder, cfg: DictConfig, device: str, console: Console
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Measures each group that the run folder does not hold yet.

    Args:
        run: the opened run folder; `groups/<name>.json` holds what a group gave.
        console: where each record is shown as it comes.

    Returns:
        Records of all groups, and those skipped: name, against, reason.
    """
    records, skipped = [], []
    for name, group in groups.items():
        file = run.path / "groups" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        if file.exists():
            console.print(f"{name}: measured already", highlight=False)
        else:
            _measure(name, group, Bench(cfg, run.path / "scratch", device), file, console)
        found = read_json(file, "remove it, the group is measured again")
        records += found["records"]
        skipped += found["skipped"]
    return records, skipped


def _measure(name: str, group: Group, bench: Bench, file, console: Console) -> None:
    records, skipped = [], []
    bench.folder.mkdir()
    try:
        for found in group.measure(bench):
            if isinstance(found, Skipped):
                skipped.append(asdict(found))
                shown = f"{found.name} against {found.against}: skipped, {found.reason}"
            else:
                records.append({**found, "group": name, "threads": bench.cfg.threads})
                shown = line(found)
            console.print(shown, highlight=False, markup=False, soft_wrap=True)
            log.info("%s", shown)
    finally:
        shutil.rmtree(bench.folder)
    write_json(file, {"records": records, "skipped": skipped})
