# SPDX-License-Identifier: MIT
"""Results of a command with a few rows: results.csv, the report, and a table on the terminal."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from hydra.utils import instantiate
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype
from rich.table import Table
from rich.text import Text

from datamodules.files import write_text
from experiments.command_line import terminal
from experiments.reporting.number_formats import any_number
from experiments.reporting.report import write_simple_report
from experiments.runs.run_folder import RunFolder


def publish(
    run: RunFolder, results: pd.DataFrame, title: str, verdict: str, tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Path | Figure], shown: list[str], tracking: Mapping,
) -> None:  # fmt: skip
    """Writes results.csv, report and figures, sends them to the tracking, and prints the columns `shown`."""
    write_text(run.path / "results.csv", results.to_csv(index=False))
    write_simple_report(run.path, title, verdict, tables, figures, run.manifest)
    pictures = sorted((run.path / "figures").glob("*.png"))
    instantiate(tracking).summarise(run.path.name, run.path, run.config, results, pictures)
    console = terminal.results()
    console.print(terminal_table(results[shown]))
    console.print(f"report: {run.path / 'report.html'}", **terminal.LINE)


def terminal_table(frame: pd.DataFrame) -> Table:
    """A table of rich; a single row is written as a column."""
    # Text, not str: rich would read "[...]" in a name as markup.
    cells = [
        [Text(value if isinstance(value, str) else any_number(column, float(value))) for column, value in row.items()]
        for _, row in frame.iterrows()
    ]
    table = Table(box=None, pad_edge=False, show_header=len(cells) != 1)
    if len(cells) == 1:
        table.add_column()
        table.add_column(justify="right")
        for column, cell in zip(frame, cells[0], strict=True):
            table.add_row(Text(column), cell)
        return table
    for column in frame:
        table.add_column(Text(column), justify="right" if is_numeric_dtype(frame[column]) else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table
