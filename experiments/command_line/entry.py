# SPDX-License-Identifier: MIT
"""The program `clusterface`: every `python -m experiments.NAME` as the sub-command NAME."""

import ast
import runpy
import sys
from pathlib import Path

from datamodules.errors import InputError, nearest

COMMANDS = {file.stem: file for file in sorted(Path(__file__).parents[1].glob("[!_]*.py"))}


def about(command: str) -> str:
    """What a command is, in one line: the first of its module, which is not imported."""
    text = ast.get_docstring(ast.parse(COMMANDS[command].read_text(encoding="utf-8")))
    return text.partition("\n")[0].partition(": python")[0].rstrip(".")


def main() -> None:
    """Runs the command that the first word names, as `python -m` would, and ends with its exit code."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        # The module becomes __main__ with its spec: worker processes start from there, not from this program.
        runpy.run_module(f"experiments.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
    else:
        from experiments.command_line.terminal import run_plain  # late: a command loads it itself, if it needs it

        sys.exit(run_plain(_help, None))


def _help(words: list[str]) -> None:
    from experiments.command_line.terminal import FLAGS_HELP, LINE, results

    if words and words[0] not in ("--help", "-h"):
        got, expected = f"no command {words[0]!r}", f"one of {', '.join(COMMANDS)}"
        raise InputError(got, expected, nearest(words[0], COMMANDS, "clusterface --help"))
    lines = [f"  {name:15} {about(name)}" for name in COMMANDS]
    results().print(
        "Usage: clusterface COMMAND [KEY=VALUE ...]\n", *lines, f"\nclusterface COMMAND --help shows its keys; `python "
        f"-m experiments.COMMAND` is the same.\n{FLAGS_HELP}", sep="\n", **LINE,
    )  # fmt: skip
