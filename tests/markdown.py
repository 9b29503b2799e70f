# SPDX-License-Identifier: MIT
"""Reads the code blocks of the documentation, for the tests that follow it word by word."""

import re
import shlex
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
FILE_NAME = re.compile(r"\A# file: (\S+)\n")
NEEDS = re.compile(r"# needs: (.+)")


@dataclass(frozen=True)
class Command:
    """One line of a ```bash block.

    Attributes:
        line: as it stands there, without its comment; continued lines are one.
        needs: what the comment line above it says it needs that a test does not have (`# needs: ...`), "" for nothing.
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
    lines = [
        line.strip()
        for language, content in blocks(text) if language == "bash"
        for line in content.replace("\\\n", " ").splitlines() if line.strip()
    ]  # fmt: skip
    found, needs = [], ""
    for line in lines:
        if line.startswith("#"):
            needs = match[1] if (match := NEEDS.match(line)) else ""
        else:
            found.append(Command(re.sub(r"\s+# .*\Z", "", line), needs))
            needs = ""
    return found


def files(text: str) -> dict[str, str]:
    """Path and content of every block that begins with `# file: path`; that line is no part of the file."""
    found = {}
    for _, content in blocks(text):
        if name := FILE_NAME.match(content):
            found[name[1]] = content[name.end() :]
    return found
