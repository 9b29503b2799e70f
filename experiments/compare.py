# SPDX-License-Identifier: MIT
"""Compare scenarios: partition the identities, train the sub-networks, evaluate, report."""

from itertools import chain
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.coordination.command_line import command
from experiments.coordination.schema import CompareConfig
from experiments.coordination.screen import LINE, notes, results


@command("compare", CompareConfig)
def main(cfg: DictConfig) -> int:
    """Runs the comparison; returns 1 where a sub-network failed."""
    from experiments.coordination.cluster_map import write_map
    from experiments.coordination.comparison import evaluate_cell, write_results
    from experiments.coordination.coordinator import Cell, Coordinator
    from experiments.coordination.data import as_seeds, as_sizes, check_testable, dataset_name, open_data, subnets_for
    from experiments.coordination.evaluation import load_metrics
    from experiments.coordination.failures import failure_table, skipped_table
    from experiments.coordination.lineup import for_data, load_lineup
    from experiments.coordination.rivals import evaluate_rivals, scenarios_below
    from experiments.coordination.run_folder import RunFolder, run_name
    from experiments.reporting.report import write_report
    from experiments.reporting.terminal import terminal_table

    console = results()
    lineup, metrics = load_lineup(cfg.scenarios, cfg), load_metrics(cfg.metrics)
    seeds, sizes = as_seeds(cfg.seeds), as_sizes(cfg.n_identities, "n_identities")
    data = open_data(cfg, sizes)
    sizes = sizes or [data.n_identities - round(data.n_identities * cfg.split.held_out)]
    cells = [Cell(n, m, seed) for n, m in zip(sizes, subnets_for(sizes, cfg.n_subnets), strict=True) for seed in seeds]

    lineup = for_data(lineup, cfg, data)
    below = scenarios_below(lineup, cfg)
    check_testable(data, cfg.split, sizes, seeds[0])
    folder = Path(cfg.runs_dir) / (cfg.name or run_name("compare", dataset_name(data), cfg))
    with RunFolder(folder, cfg) as run:
        coordinator = Coordinator(run, data, cfg, notes())
        notes().print(f"{folder}: {len(lineup)} scenarios, N = {sizes}, seeds {seeds}", **LINE)
        networks = [*lineup.scenarios, *chain(*below.values())]
        failed = coordinator.train((cell, scenario) for cell in cells for scenario in networks)
        for cell in cells:
            evaluate_cell(coordinator, cell, lineup.scenarios, failed, metrics)
            evaluate_rivals(coordinator, cell, lineup, below, cfg, failed, metrics)
        if failed:
            console.print(failure_table(failed))
        if not (run.path / "cells").exists():
            return 1
        table, skipped = write_results(run.path)
        write_map(coordinator, cells, lineup.scenarios)
        run.note_files(run.path / "results.csv", *run.path.glob("details/*.csv"), *run.path.glob("cells/*.json"))
        write_report(run.path)
        figures = sorted((run.path / "figures").glob("*.png"))
        config = OmegaConf.to_container(cfg, resolve=True)
        instantiate(cfg.logger).summarise(run.path.name, run.path, config, table, figures)

    console.print(terminal_table(table))
    if len(skipped):
        console.print(skipped_table(skipped))
    console.print(f"report: {folder / 'report.html'}", **LINE)
    return 1 if failed else 0


if __name__ == "__main__":
    main()
