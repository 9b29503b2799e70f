# SPDX-License-Identifier: MIT
"""What can be chosen, with one line each.

python -m experiments.list
python -m experiments.list loss partitioner
"""

import argparse
import sys
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from datamodules.errors import InputError
from experiments.listing.choices import choices

HELP = """\
Usage: python -m experiments.list [GROUP ...]

Lists the choices of every group of experiments/configs: data sets, sources, extractors, losses, partitioners, inits,
routers, decisions, scenarios, launchers, loggers, ... The name is what is written behind `group=`.
In a terminal as a table, otherwise as lines of group, name and description with tabs between.
Exit code: 0 done, 2 something in the input cannot be used (one line on standard error says what).

  python -m experiments.list
  python -m experiments.list loss partitioner
"""


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return HELP

    def error(self, message: str) -> NoReturn:
        raise InputError(message, "names of groups", "see --help")


def main(words: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        words: the command line without the program's name; None for the real one.

    Returns:
        The exit code.
    """
    try:
        parser = _Parser(prog="python -m experiments.list")
        parser.add_argument("groups", nargs="*")
        found = choices(parser.parse_args(words).groups)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        for choice in found:
            print(choice.group, choice.name, choice.about, sep="\t")
        return 0
    table = Table(show_edge=False)
    for title, style in (("group", "dim"), ("name", "bold"), ("what it is", None)):
        table.add_column(title, style=style, no_wrap=title != "what it is")
    for number, choice in enumerate(found):
        new = number == 0 or found[number - 1].group != choice.group
        last = number + 1 == len(found) or found[number + 1].group != choice.group
        table.add_row(choice.group if new else "", choice.name, choice.about, end_section=last)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
