# SPDX-License-Identifier: MIT
"""What a run that could not finish says at its end."""

from rich.table import Table


def failure_table(failed: dict[str, tuple[str, str]]) -> Table:
    """A table of the sub-networks that failed and why; repeating the command tries only those again.

    Args:
        failed: by `Job.identifier`, title and reason of each.
    """
    table = Table(title=f"{len(failed)} sub-networks failed; the same command tries only those again")
    table.add_column("sub-network")
    table.add_column("reason")
    for title, reason in failed.values():
        table.add_row(title, reason)
    return table
