# SPDX-License-Identifier: MIT
"""Draws the report of one run again, or of several runs merged, without training anything.

python -m experiments.report runs/a
python -m experiments.report runs/a runs/b --out runs/merged
"""

import sys
from pathlib import Path

from datamodules.errors import InputError
from experiments.command_line.terminal import FLAGS_HELP, LINE, Parser, notes, results, run_plain

HELP = f"""\
Usage: python -m experiments.report RUN_FOLDER [RUN_FOLDER ...] [--out FOLDER] [--wandb [--project NAME]]

Draws report.md, report.html and figures/*.png of a run again, from its results.csv and details/*.csv. Nothing is
trained. With --out, the rows of all named runs are merged into a new run folder first: rows that repeat another exactly
are dropped, rows that contradict another are refused. With --wandb, tables, figures and report go to Weights & Biases
as one run in the comparison's group (offline without a key; project of the run, or --project): docs/dashboards.md.

  python -m experiments.report runs/omniglot --wandb
  python -m experiments.report runs/seeds_0_2 runs/seeds_3_9 --out runs/ten_seeds

{FLAGS_HELP}
Exit codes: 0 done, 2 bad input, 130 stopped.
"""
EXPECTED = "RUN_FOLDER [RUN_FOLDER ...] [--out FOLDER] [--wandb [--project NAME]]"


def _draw(words: list[str]) -> None:
    parser = Parser("experiments.report", HELP, EXPECTED)
    parser.add_argument("run_folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--wandb", action="store_true")
    parser.add_argument("--project")
    arguments = parser.parse_args(words)
    if len(arguments.run_folders) > 1 and arguments.out is None:
        raise InputError(f"{len(arguments.run_folders)} run folders", "--out FOLDER with them", "name a new folder")
    if arguments.project is not None and not arguments.wandb:
        raise InputError("--project", "--wandb with it", "say --wandb too")
    # Imported late: drawing takes a second to load, and --help should not.
    from experiments.reporting.report import merge_reports, write_report
    from experiments.reporting.runs import read_run
    from experiments.reporting.terminal import terminal_table

    folder = arguments.out or arguments.run_folders[0]
    with notes().status("tables, figures and report"):
        if arguments.out is None:
            write_report(folder)
        else:
            dropped = merge_reports(arguments.run_folders, folder)
    if arguments.out is not None:
        notes().print(f"{len(arguments.run_folders)} runs merged, {dropped} repeated rows dropped", **LINE)
    results().print(terminal_table(read_run(folder).results))
    results().print(f"report: {folder / 'report.html'}", **LINE)
    if arguments.wandb:
        from experiments.runs.uploading import upload_report

        results().print(f"Weights & Biases: {upload_report(folder, arguments.project)}", **LINE)


def main(words: list[str] | None = None) -> int:
    """Runs the command on its words, None for those of the command line; returns the exit code."""
    return run_plain(_draw, words)


if __name__ == "__main__":
    sys.exit(main())
