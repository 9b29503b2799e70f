# SPDX-License-Identifier: MIT
"""What a command shows: results always, progress unless --quiet, log lines only with --verbose.

Tables and progress have colours in a terminal (none with NO_COLOR); a file or a pipe gets plain text.
"""

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from datamodules.errors import InputError

LINE: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}  # prints text unchanged, on one line
WIDTH_ELSEWHERE = 160  # characters, if the output is no terminal
FLAGS = {"--quiet": "quiet", "-q": "quiet", "--verbose": "verbose", "-v": "verbose"}
FLAGS_HELP = "Any command: --quiet shows results and errors alone, --verbose log lines with their times as well."

_level = "normal"
_typed: list[str] | None = None  # the words of the command line before any is changed for Hydra


def note_typed(command: str, words: list[str]) -> None:
    """Keeps the words of a command line, `compare` and its arguments say, for `typed_command`."""
    global _typed
    _typed = ["python", "-m", f"experiments.{command}", *words]


def typed_command() -> str:
    """The command as it can be pasted into a shell."""
    return shlex.join(_typed or [Path(sys.argv[0]).name, *sys.argv[1:]])


def without_flags(words: list[str]) -> tuple[list[str], str]:
    """The other words of a command line, and "quiet", "normal" or "verbose".

    Raises:
        InputError: both --quiet and --verbose.

    >>> without_flags(["seeds=1", "--quiet"]), without_flags(["seeds=1"])
    ((['seeds=1'], 'quiet'), (['seeds=1'], 'normal'))
    """
    levels = {FLAGS[word] for word in words if word in FLAGS}
    if len(levels) > 1:
        raise InputError("--quiet and --verbose", "one of them", "leave one out")
    return [word for word in words if word not in FLAGS], levels.pop() if levels else "normal"


@contextmanager
def verbosity(level: str) -> Iterator[None]:
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
    """The console for results; a file or a pipe gets lines as long as the tables need."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_ELSEWHERE
    return console


def notes() -> Console:
    """The console for progress, which --quiet silences."""
    return Console(highlight=False, quiet=_level == "quiet")


def show_error(line: str) -> None:
    """Prints "error: " and one line on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    else:  # not by rich, which would remove control characters
        print(f"error: {line}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """The parser of a command without configuration: `text` is its help, and its errors are `InputError`s."""

    def __init__(self, module: str, text: str, expected: str):
        super().__init__(prog=f"python -m {module}", allow_abbrev=False)
        self.text, self.expected = text, expected

    def format_help(self) -> str:
        return self.text

    def error(self, message: str) -> NoReturn:
        raise InputError(message, self.expected, "see --help")


def run_plain(work: Callable[[list[str]], None], words: list[str] | None) -> int:
    """Runs a command without configuration; `words` of None are those of the command line. Returns the exit code."""
    try:
        rest, level = without_flags(sys.argv[1:] if words is None else words)
        with verbosity(level):
            work(rest)
        return 0
    except InputError as error:
        show_error(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
