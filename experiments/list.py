# SPDX-License-Identifier: MIT
"""The choices of every group of configurations, with one line each: python -m experiments.list [GROUP ...]"""

import sys
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from rich.table import Table

from datamodules.files import make_folder, write_text
from experiments.command_line.choices import choices
from experiments.command_line.terminal import FLAGS_HELP, Parser, results, run_plain

HELP = f"""\
Usage: python -m experiments.list [GROUP ...] [--keys FILE]

Lists the choices of every group of experiments/configs: data sets, sources, extractors, losses, partitioners, inits,
routers, decisions, scenarios, launchers, loggers, ... The name goes behind `group=`.
In a terminal as a table, otherwise as lines of group, name and description with tabs between.
With --keys a page of all configuration keys with their defaults is written (docs/configuration.md).

  python -m experiments.list
  python -m experiments.list loss partitioner

{FLAGS_HELP}
Exit codes: 0 done, 2 bad input, 130 stopped.
"""


def _list(words: list[str]) -> None:
    parser = Parser("experiments.list", HELP, "names of groups, or --keys FILE")
    parser.add_argument("groups", nargs="*")
    parser.add_argument("--keys", type=Path)
    arguments = parser.parse_args(words)
    if arguments.keys is not None:
        from experiments.command_line.keys_page import page  # late: it imports every command

        make_folder(arguments.keys.parent)
        write_text(arguments.keys, page())
        return
    found, console = choices(arguments.groups), results()
    if not console.is_terminal:
        for choice in found:
            print(choice.group, choice.name, choice.about, sep="\t")
        return
    table = Table(show_edge=False)
    for title, style in (("group", "dim"), ("name", "bold"), ("what it is", None)):
        table.add_column(title, style=style, no_wrap=title != "what it is")
    for group, members in groupby(found, attrgetter("group")):
        table.add_section()
        for number, choice in enumerate(members):
            table.add_row("" if number else group, choice.name, choice.about)
    console.print(table)


def main(words: list[str] | None = None) -> int:
    """Runs the command on its words, None for those of the command line; returns the exit code."""
    return run_plain(_list, words)


if __name__ == "__main__":
    sys.exit(main())
