# SPDX-License-Identifier: MIT
"""What a command shows: results always, what happens on the way unless --quiet, log lines too with --verbose.

In a terminal tables and progress have colours (none with NO_COLOR); into a file or a pipe goes plain text.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from datamodules.errors import InputError

LINE: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}  # prints text as it is, unbroken
WIDTH_ELSEWHERE = 160  # characters where there is no terminal that has a width
FLAGS = {"--quiet": "quiet", "-q": "quiet", "--verbose": "verbose", "-v": "verbose"}
FLAGS_HELP = "Any command: --quiet shows results and errors alone, --verbose log lines with their times as well."

_level = "normal"


def without_flags(words: list[str]) -> tuple[list[str], str]:
    """Takes --quiet and --verbose out of a command line.

    Returns:
        The other words, and "quiet", "normal" or "verbose".

    Raises:
        InputError: both are asked for.

    >>> without_flags(["seeds=1", "--quiet"]), without_flags(["seeds=1"])
    ((['seeds=1'], 'quiet'), (['seeds=1'], 'normal'))
    """
    levels = {FLAGS[word] for word in words if word in FLAGS}
    if len(levels) > 1:
        raise InputError("--quiet and --verbose", "one of them", "leave one out")
    return [word for word in words if word not in FLAGS], levels.pop() if levels else "normal"


@contextmanager
def showing(level: str) -> Iterator[None]:
    """Sets for a while how much is shown: "quiet", "normal", or "verbose" with log lines on standard error."""
    global _level
    before, _level = _level, level
    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root_level = root.level
    try:
        with warnings.catch_warnings():
            if level == "verbose":
                root.addHandler(handler)
                root.setLevel(logging.INFO)
            elif level == "quiet":
                warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(root_level)
        _level = before


def results() -> Console:
    """Where a command shows what it found; a file or a pipe gets lines as long as the tables need."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_ELSEWHERE
    return console


def notes() -> Console:
    """Where a command shows what it is doing: progress, and lines on the way."""
    return Console(highlight=False, quiet=_level == "quiet")


def show_error(line: str) -> None:
    """One line on standard error, "error: " before it."""
    console = Console(stderr=True)
    if not console.is_terminal:  # as it is: rich would take out what a terminal must not be sent
        print(f"error: {line}", file=sys.stderr)
        return
    console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)


class Parser(argparse.ArgumentParser):
    """The parser of a command without configuration: its help as written, its errors as every command's."""

    def __init__(self, module: str, text: str, expected: str):
        super().__init__(prog=f"python -m {module}", allow_abbrev=False)
        self.text, self.expected = text, expected

    def format_help(self) -> str:
        return self.text

    def error(self, message: str) -> NoReturn:
        raise InputError(message, self.expected, "see --help")


def run_plain(work: Callable[[list[str]], None], words: list[str] | None) -> int:
    """Runs a command without configuration on its words, None for those of the command line; returns the exit code."""
    try:
        rest, level = without_flags(sys.argv[1:] if words is None else words)
        with showing(level):
            work(rest)
        return 0
    except InputError as error:
        show_error(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
