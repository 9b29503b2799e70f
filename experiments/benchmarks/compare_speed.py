# SPDX-License-Identifier: MIT
"""experiments.benchmark: every group of a suite is measured; a table, a figure and the records are written.

A finished group is kept, so that a repeated command goes on from there.
"""

import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.files import atomic_file, read_json, write_json, write_text
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.machine import describe, device_of, set_threads
from experiments.benchmarks.measurement import Skipped
from experiments.benchmarks.summary import line, markdown, ratio_figure, terminal_table
from experiments.command_line.terminal import LINE, notes, results
from experiments.reporting.canvas import to_png
from experiments.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


def compare_speed(cfg: DictConfig) -> None:
    """Measures, writes benchmark.json, benchmark.md and a figure, and prints the table."""
    console, started = results(), time.perf_counter()
    cfg.threads = set_threads(cfg.threads)
    machine = describe(cfg.threads, device_of(cfg.trainer.accelerator))
    groups = build_groups(cfg)
    facts: dict[str, Any] = {key: machine[key] for key in ("threads", "cpu", "matrix_units", "gpu") if key in machine}
    records, skipped = [], []

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or time.strftime("benchmark-%Y%m%d-%H%M%S")), cfg) as run:
        run.note(machine=machine)
        (run.path / "groups").mkdir(exist_ok=True)
        for name, group in groups.items():
            file = run.path / "groups" / f"{name}.json"
            if file.exists():
                notes().print(f"{name}: measured already", highlight=False)
            else:
                bench = Bench(cfg, run.path / "scratch", machine["device"])
                write_json(file, _measured(group, bench, {"group": name, **facts}))
            found = read_json(file, "remove it, the group is measured again")
            records += found["records"]
            skipped += found["skipped"]
        write_json(run.path / "skipped.json", skipped)
        write_json(run.path / "benchmark.json", records)
        if records:
            with atomic_file(run.path / "benchmark.png") as png:
                png.write_bytes(to_png(ratio_figure(records)))
        write_text(run.path / "benchmark.md", markdown(records, skipped, machine, "benchmark.png" if records else None))

    if records:
        console.print(terminal_table(records))
    console.print(
        f"{len(records)} comparisons, {len(skipped)} skipped, in {time.perf_counter() - started:.0f} s: "
        f"{run.path / 'benchmark.md'}", **LINE,
    )  # fmt: skip


def build_groups(cfg: DictConfig) -> dict[str, Group]:
    """The chosen groups of the suite, in its order, built before anything is written: a wrong argument costs nothing.

    Raises:
        InputError: an unknown name in `only` or none, or a node that builds no group.
    """
    only = list(cfg.suite) if cfg.only is None else list(cfg.only)
    if not only or not set(only) <= set(cfg.suite):
        raise InputError(f"only = {only}", f"some of {', '.join(cfg.suite)}", "correct only=")
    groups = {name: instantiate(node) for name, node in cfg.suite.items() if name in only}
    for name, group in groups.items():
        if not isinstance(group, Group):
            raise InputError(f"suite.{name} of class {type(group).__name__}", "a Group", "correct its _target_")
    return groups


def _measured(group: Group, bench: Bench, facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    records, skipped = [], []
    bench.folder.mkdir()
    try:
        for found in group.measure(bench):
            if isinstance(found, Skipped):
                skipped.append(asdict(found))
                shown = f"{found.name} against {found.baseline}: skipped, {found.reason}"
            else:
                records.append({**found, **facts})
                shown = line(records[-1])
            notes().print(shown, highlight=False, markup=False, soft_wrap=True)
            log.info("%s", shown)
    finally:
        shutil.rmtree(bench.folder)
    return {"records": records, "skipped": skipped}
