# SPDX-License-Identifier: MIT
"""Files stay short, and nothing is written twice."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datamodules", "lightning_modules", "callbacks", "experiments", "tests")
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
MOST_LINES, BLOCK = 400, 10


def code_lines(source: str) -> list[tuple[int, str]]:
    """Numbered lines without indentation, blank lines, comments, docstrings and imports.

    What two modules say about themselves, and what they import, may be alike.
    """
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    stripped = ((number, line.strip()) for number, line in enumerate(source.splitlines(), start=1))
    return [(n, line) for n, line in stripped if n not in left_out and line and not line.startswith("#")]


def repeated(sources: dict[str, str]) -> list[str]:
    """One line for each block of ten lines that stands in two files, the first block of each pair only."""
    places = defaultdict(list)
    for name, source in sources.items():
        lines = code_lines(source)
        for start in range(len(lines) - BLOCK + 1):
            block = tuple(line for _, line in lines[start : start + BLOCK])
            places[block].append((name, lines[start][0]))
    found = {}
    for found_at in places.values():
        for (one, line), (other, there) in zip(found_at, found_at[1:], strict=False):
            if one != other:
                found.setdefault((one, other), f"{one}:{line} is {other}:{there}")
    return list(found.values())


def test_the_search_finds_a_block_of_ten_lines_and_no_shorter_one():
    block = "\n".join(f"a{i} = f({i})" for i in range(BLOCK))
    indented = "def g():\n" + "\n".join(f"    {line}\n\n    # why" for line in block.splitlines())
    assert repeated({"one.py": block, "two.py": indented}) == ["one.py:1 is two.py:2"]
    shorter = block.rpartition("\n")[0]
    assert repeated({"one.py": shorter, "two.py": shorter}) == []
    assert repeated({"one.py": "import a\n" * 20, "two.py": "import a\n" * 20}) == []


def test_no_block_of_ten_lines_stands_in_two_modules():
    assert repeated({str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}) == []


def test_no_file_has_more_than_400_lines():
    long = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n") for file in FILES}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}
