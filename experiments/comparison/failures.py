# SPDX-License-Identifier: MIT
"""Tables of failed sub-networks and of rows without numbers."""

import pandas as pd
from rich.table import Table
from rich.text import Text


def failure_table(failed: dict[str, tuple[str, str]]) -> Table:
    """A table of the sub-networks that failed, from title and reason by `Job.identifier`."""
    table = Table(title=f"{len(failed)} sub-networks failed; the same command tries only those again")
    table.add_column("sub-network")
    table.add_column("reason")
    for title, reason in failed.values():
        table.add_row(title, reason)
    return table


def skipped_table(skipped: pd.DataFrame) -> Table:
    """A table of the rows that have no numbers, and why."""
    table = Table(title="rows without numbers")
    table.add_column("scenario")
    table.add_column("reason", overflow="fold")
    for scenario, reason in dict.fromkeys(zip(skipped["scenario"], skipped["reason"], strict=True)):
        table.add_row(Text(scenario), Text(reason))
    return table
