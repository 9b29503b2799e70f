# SPDX-License-Identifier: MIT
"""What docstrings state is so: their arguments are those of the signature, and their examples give what they show."""

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example[s]?|Note[s]?|References):\s*$")
ENTRY = re.compile(r"^\*{0,2}(\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:")


def documented(docstring, section="Args"):
    """Names of a section of a Google-style docstring; None without the section."""
    lines, names, inside, indent = docstring.expandtabs().splitlines(), None, False, None
    for line in lines:
        stripped = line.strip()
        if SECTION.match(stripped):
            inside = stripped == f"{section}:"
            names, indent = ([] if inside else names), None
        elif inside and stripped:
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            entry = ENTRY.match(stripped)
            if depth < indent:
                inside = False
            elif depth == indent and entry:
                names += [name.strip("* ") for name in entry.group(1).split(",")]
    return names


def arguments(function):
    every = function.args
    names = [a.arg for a in [*every.posonlyargs, *every.args, *every.kwonlyargs]]
    names += [a.arg for a in (every.vararg, every.kwarg) if a]
    return [name for name in names if name not in ("self", "cls")]


def fields(node):
    stated = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    stated = [item for item in stated if item.value is None or "init=False" not in ast.unparse(item.value)]
    return [item.target.id for item in stated if "ClassVar" not in ast.unparse(item.annotation)]


def mistakes(source):
    """One line for each public function or class whose Args section is not its signature."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names = documented(ast.get_docstring(node) or "")
        if names is None:
            continue
        expected = arguments(node) if not isinstance(node, ast.ClassDef) else None
        if expected is None:
            makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            is_data = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
            if makers:
                expected = arguments(makers[0])
            elif is_data:
                expected = fields(node)
            else:
                continue  # the constructor is inherited
        if names != expected:
            found.append(f"{node.name}: documented {names}, signature {expected}")
    return found


def test_the_comparison_finds_what_it_is_for():
    right = 'def f(a, b=1, *c, **d):\n    """F.\n\n    Args:\n        a: x.\n            more: of a.\n        b: y.\n        *c: z.\n        **d: z.\n\n    Returns:\n        z: no argument.\n    """'  # noqa: E501
    assert mistakes(right) == []
    assert mistakes(right.replace("        b: y.\n", "")) and mistakes(right.replace("a: x", "q: x"))
    assert mistakes('class A:\n    """A.\n\n    Args:\n        a: x.\n    """\n    def __init__(self, b): pass')
    assert not mistakes(
        'class A:\n    """A.\n\n    Args:\n        a, b: x.\n    """\n    def __init__(self, a, b): pass'
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_documented_arguments_are_those_of_the_signature(file):
    assert mistakes(file.read_text(encoding="utf-8")) == []


WITH_EXAMPLES = [file for file in FILES if ">>>" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_give_what_they_show(file):
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted > 0


def test_public_modules_classes_and_functions_have_docstrings():
    without = []
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):
            without.append(str(file.relative_to(ROOT)))
        for node in tree.body:
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                without.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert without == []
