# SPDX-License-Identifier: MIT
"""Paired speed comparisons: python -m experiments.benchmark suite=quick"""

import time
from pathlib import Path

from omegaconf import DictConfig

from datamodules.files import atomic_file, write_json, write_text
from experiments.benchmarks.config import BenchmarkConfig
from experiments.coordination.command_line import command
from experiments.coordination.screen import LINE, notes, results


@command("benchmark", BenchmarkConfig)
def main(cfg: DictConfig) -> None:
    """Measures, writes benchmark.json, benchmark.md and a figure, prints the table."""
    from experiments.benchmarks.machine import describe, device_of, set_threads
    from experiments.benchmarks.run import build_groups, run_groups
    from experiments.benchmarks.summary import markdown, ratio_figure, terminal_table
    from experiments.coordination.run_folder import RunFolder
    from experiments.reporting.canvas import to_png

    console, started = results(), time.perf_counter()
    cfg.threads = set_threads(cfg.threads)
    device = device_of(cfg.trainer.accelerator)
    groups = build_groups(cfg)

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or time.strftime("benchmark-%Y%m%d-%H%M%S")), cfg) as run:
        machine = describe(cfg.threads, device)
        run.note(machine=machine)
        records, skipped = run_groups(groups, run, cfg, device, notes())
        write_json(run.path / "skipped.json", skipped)
        write_json(run.path / "benchmark.json", records)
        if records:
            with atomic_file(run.path / "benchmark.png") as file:
                file.write_bytes(to_png(ratio_figure(records)))
        write_text(run.path / "benchmark.md", markdown(records, skipped, machine, "benchmark.png" if records else None))

    if records:
        console.print(terminal_table(records))
    console.print(
        f"{len(records)} comparisons, {len(skipped)} skipped, in {time.perf_counter() - started:.0f} s: "
        f"{run.path / 'benchmark.md'}", **LINE,
    )  # fmt: skip


if __name__ == "__main__":
    main()
