# SPDX-License-Identifier: MIT
"""Draws the report of one run again, or of several runs merged, without training anything.

python -m experiments.report runs/a
python -m experiments.report runs/a runs/b --out runs/merged
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from datamodules.errors import InputError

HELP = """\
Usage: python -m experiments.report RUN_FOLDER [RUN_FOLDER ...] [--out FOLDER]

Draws report.md, report.html and figures/*.png of a run again, from its results.csv and details/*.csv.
Nothing is trained. With --out, the rows of all named runs are merged into a new run folder first:
rows that repeat another exactly are dropped, rows that contradict another are refused.
Exit code: 0 done, 2 something in the input cannot be used (one line on standard error says what).

  python -m experiments.report runs/omniglot
  python -m experiments.report runs/seeds_0_2 runs/seeds_3_9 --out runs/ten_seeds
"""


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return HELP

    def error(self, message: str) -> NoReturn:
        raise InputError(message, "RUN_FOLDER [RUN_FOLDER ...] [--out FOLDER]", "see --help")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m experiments.report")
    parser.add_argument("run_folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words)
    if len(arguments.run_folders) > 1 and arguments.out is None:
        raise InputError(f"{len(arguments.run_folders)} run folders", "--out FOLDER with them", "name a new folder")
    return arguments


def main(words: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        words: the command line without the program's name; None for the real one.

    Returns:
        The exit code.
    """
    try:
        arguments = _arguments(words)
        # Imported late: drawing takes a second to load, and --help should not.
        from experiments.reporting.report import merge_reports, write_report
        from experiments.reporting.runs import read_run
        from experiments.reporting.terminal import terminal_table

        console = Console()
        folder = arguments.out or arguments.run_folders[0]
        if arguments.out is None:
            write_report(folder)
        else:
            dropped = merge_reports(arguments.run_folders, folder)
            console.print(f"{len(arguments.run_folders)} runs merged, {dropped} repeated rows dropped", highlight=False)
        console.print(terminal_table(read_run(folder).results))
        console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
        return 0
    except InputError as error:
        line = " ".join(str(error).split())
        Console(stderr=True).print(f"error: {line}", markup=False, highlight=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
