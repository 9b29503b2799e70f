# SPDX-License-Identifier: MIT
"""experiments.compare: every scenario and baseline, at each N, with each seed."""

from itertools import chain
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.command_line.terminal import LINE, notes, results
from experiments.comparison import multirun
from experiments.comparison.baselines import evaluate_baselines, networks_of_baselines
from experiments.comparison.cells import evaluate_cell, evaluation_work, write_results
from experiments.comparison.class_mean_map import write_map
from experiments.comparison.coordinator import Cell, Coordinator
from experiments.comparison.data import as_seeds, as_sizes, check_testable, dataset_name, open_data, subnets_for
from experiments.comparison.entries import load_entries, usable_entries
from experiments.comparison.failures import failure_table, skipped_table
from experiments.comparison.metrics import load_metrics
from experiments.reporting.report import write_report
from experiments.reporting.terminal import terminal_table
from experiments.runs.run_folder import RunFolder, run_name
from experiments.training.progress import SECONDS

MAP, REPORT = "map of the class means", "tables, figures and report"
STAGES = {MAP: 3.0, REPORT: 10.0}  # their seconds on two CPU cores


def compare(cfg: DictConfig) -> int:
    """Runs the comparison; returns 1 if a part failed."""
    console = results()
    multirun.begins()
    entries, metrics = load_entries(cfg.scenarios, cfg), load_metrics(cfg.metrics)
    seeds, sizes = as_seeds(cfg.seeds), as_sizes(cfg.n_identities, "n_identities")
    data = open_data(cfg, sizes)
    sizes = sizes or [data.n_identities - round(data.n_identities * cfg.split.held_out)]
    cells = [Cell(n, m, seed) for n, m in zip(sizes, subnets_for(sizes, cfg.n_subnets), strict=True) for seed in seeds]

    entries = usable_entries(entries, cfg, data)
    of_baselines = networks_of_baselines(entries, cfg)
    check_testable(data, cfg.split, sizes, seeds[0], cfg.evaluate)
    folder = Path(cfg.runs_dir) / (cfg.name or run_name("compare", dataset_name(data), cfg))
    with RunFolder(folder, cfg) as run:
        coordinator = Coordinator(run, data, cfg, notes(), metrics)
        notes().print(f"{folder}: {len(entries)} scenarios, N = {sizes}, seeds {seeds}", **LINE)
        networks = [*entries.scenarios, *chain(*of_baselines.values())]
        progress = coordinator.progress
        for kind, evaluated in (("evaluation", entries.scenarios), ("baseline", entries.baselines)):
            progress.expect(evaluation_work(coordinator, cells, [one.name for one in evaluated]), kind)
        progress.expect(STAGES, SECONDS)
        failed = coordinator.train_missing((cell, scenario) for cell in cells for scenario in networks)
        for cell in cells:
            evaluate_cell(coordinator, cell, entries.scenarios)
            evaluate_baselines(coordinator, cell, entries, of_baselines)
        if failed:
            console.print(failure_table(failed))
        if not (run.path / "cells").exists():
            return 1
        table, skipped = write_results(run.path)
        with progress.stage(MAP):
            write_map(coordinator, cells, entries.scenarios)
        run.note_files(run.path / "results.csv", *run.path.glob("details/*.csv"), *run.path.glob("cells/*.json"))
        with progress.stage(REPORT):
            write_report(run.path)
        figures = sorted((run.path / "figures").glob("*.png"))
        config = OmegaConf.to_container(cfg, resolve=True)
        with progress.stage("results to the logger"):
            instantiate(cfg.logger).summarise(run.path.name, run.path, config, table, figures)

    names = [one.name for one in entries.scenarios] + [one.name for one in entries.baselines]
    multirun.ends(run.path, table.loc[table["scenario"].isin(names[:1]), "f1"].mean())
    console.print(terminal_table(table))
    if len(skipped):
        console.print(skipped_table(skipped))
    console.print(f"report: {folder / 'report.html'}", **LINE)
    return 1 if failed else 0
