# SPDX-License-Identifier: MIT
"""Reads the code blocks of the documentation, for the tests that follow it word by word."""

import re
import shlex
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
FILE_NAME = re.compile(r"\A# file: (\S+)\n")
NEEDS = re.compile(r"\s+# needs: (.+)\Z")


@dataclass(frozen=True)
class Command:
    """One line of a ```bash block.

    Attributes:
        line: as it stands there, without its comment.
        needs: what the page says it needs that a test does not have (`# needs: ...`), "" for nothing.
    """

    line: str
    needs: str

    @property
    def words(self) -> list[str]:
        """The line as a shell would split it."""
        return shlex.split(self.line)


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    return [(language, content) for language, content in FENCE.findall(text)]


def commands(text: str) -> list[Command]:
    """Every line of every ```bash block that is not a comment, in order."""
    lines = [line for language, content in blocks(text) if language == "bash" for line in content.splitlines()]
    found = []
    for line in filter(None, map(str.strip, lines)):
        needs = NEEDS.search(line)
        line = re.sub(r"\s+# .*\Z", "", line)
        if not line.startswith("#"):
            found.append(Command(line, needs[1] if needs else ""))
    return found


def files(text: str) -> dict[str, str]:
    """Path and content of every block that begins with `# file: path`; that line is no part of the file."""
    found = {}
    for _, content in blocks(text):
        if name := FILE_NAME.match(content):
            found[name[1]] = content[name.end() :]
    return found
