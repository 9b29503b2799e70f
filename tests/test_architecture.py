# SPDX-License-Identifier: MIT
"""docs/architecture.md names files and functions that exist, and its walk has at most 12 stops."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w.]+)` in\s+`([\w/]+\.py)`", PAGE)


def test_the_walk_has_at_most_twelve_stops():
    stops = re.findall(r"^(\d+)\. `\w+` in `", PAGE, re.MULTILINE)
    assert stops == [str(number) for number in range(1, len(stops) + 1)] and 8 <= len(stops) <= 12


@pytest.mark.parametrize("name, file", NAMED)
def test_what_is_named_exists(name, file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {
        part.id
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)
    }  # fmt: skip
    assert set(name.split(".")) <= defined


def test_each_package_and_folder_of_experiments_is_named():
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert {name for name in folders if f"`{name}`" not in PAGE} == set()
