# SPDX-License-Identifier: MIT
"""Public docstrings name every argument, say shapes of arrays, units of quantities, and which errors are raised.

A method that a base class has too is documented there; a command's keys are documented by its schema.
"""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
NAMED_SHAPE = re.compile(r"_\w*?[A-Z][A-Za-z0-9]*$|_[a-z]$")  # embedding_BD, which_b
SHAPE = re.compile(
    r"\((?:[A-Za-z]|[A-Z]\w+|\d|batch|any|\.\.\.)(?: \w+)?,[^()]*\)|any `?shape|same shape|scalar"
)  # (N, D), (B,), (b, T), (batch, 3, S, S)
ELSEWHERE = re.compile(r"[Ss]ee [`A-Z]|\bas (?:of|for) `|arguments of `")
ARRAY = re.compile(r"^(?:\w+\.)?(?:Tensor|ndarray)(?: \| None)?$")
RAISED = ("InputError", "ValueError")
QUANTITY = re.compile(
    r"(?:^|_)(?:seconds|timeout|bytes|memory|image_size|angle|margin|percent|share|fraction|dropout)(?:$|_)"
)
UNIT = re.compile(
    r"second|minute|bytes|[MG]iB|\bMB\b|pixel|radian|degree|angle|cosine|distance|percent|%|share|rate|\d"
    r"|without dimension"
)


@cache
def overridden(file: Path, owner: str) -> frozenset[str]:
    """Names that the base classes of a class have."""
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    return frozenset(name for base in inspect.getmro(getattr(module, owner))[1:] for name in vars(base))


def public_functions(file: Path):
    """Public functions and methods that no base class has: (name, its class or None, node)."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if not any("command(" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
            above = overridden(file, node.name) if methods else frozenset()
            for method in methods:
                if method.name not in above:
                    yield f"{node.name}.{method.name}", method


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    every = node.args
    found = [*every.posonlyargs, *every.args, *every.kwonlyargs, *(one for one in (every.vararg, every.kwarg) if one)]
    return [one for one in found if one.arg not in ("self", "cls") and not one.arg.startswith("_")]


def unnamed(node: ast.FunctionDef) -> list[str]:
    """Arguments that the docstring does not name."""
    words = set(re.findall(r"\w+", ast.get_docstring(node) or ""))
    return [one.arg for one in arguments(node) if one.arg not in words]


def shapeless(node: ast.FunctionDef) -> list[str]:
    """Arrays, taken or returned, whose shape neither a name nor the docstring tells."""
    text = ast.get_docstring(node) or ""
    if SHAPE.search(text):
        return []
    typed = [(one.arg, ast.unparse(one.annotation)) for one in arguments(node) if one.annotation]
    found = [name for name, kind in typed if ARRAY.match(kind) and not NAMED_SHAPE.search(name)]
    returned = ast.unparse(node.returns) if node.returns else ""
    return found + (["what it returns"] if ARRAY.match(returned) and not NAMED_SHAPE.search(node.name) else [])


def described(name: str, text: str) -> str:
    """What a docstring says of an argument or attribute: what stands between its name and the next one."""
    found = re.search(
        rf"^ *(?:\w+, )*{name}(?:, \w+)*:(.*?)(?=^ *\w+(?:, \w+)*:|^\s*$|\Z)", text, re.DOTALL | re.MULTILINE
    )
    return found.group(1) if found else ""


def unitless(node: ast.FunctionDef, text: str) -> list[str]:
    """Numbers with a dimension of which the docstring does not say in what they are measured."""
    typed = [(one.arg, ast.unparse(one.annotation)) for one in arguments(node) if one.annotation]
    wanted = [name for name, kind in typed if QUANTITY.search(name) and re.search(r"\b(?:int|float)\b", kind)]
    return [name for name in wanted if not UNIT.search(described(name, text))]


def raises_unsaid(node: ast.FunctionDef) -> bool:
    """Whether the function itself refuses something and its docstring does not say so."""
    calls = [one.exc for one in ast.walk(node) if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call)]
    refuses = any(isinstance(call.func, ast.Name) and call.func.id in RAISED for call in calls)
    text = ast.get_docstring(node) or ""
    return refuses and "Raises:" not in text and not re.search(r"[Rr]efuse|[Rr]aises", text)


def mistakes(name: str, node: ast.FunctionDef) -> list[str]:
    text = ast.get_docstring(node) or ""
    if ELSEWHERE.search(text):
        return []
    found = [f"does not name {one}" for one in unnamed(node)] + [f"no shape of {one}" for one in shapeless(node)]
    found += [f"no unit of {one}" for one in unitless(node, text)]
    return [f"{name}: {one}" for one in [*found, *(["no Raises"] if raises_unsaid(node) else [])]]


def test_the_search_finds_what_it_is_for():
    def of(text):
        return mistakes("f", ast.parse(text).body[0])

    assert of('def f(a, b):\n    """Adds a."""') == ["f: does not name b"]
    assert of('def f(a: Tensor):\n    """Of a."""') == ["f: no shape of a"]
    assert of('def f(a_BD: Tensor) -> Tensor:\n    """Of a_BD."""') == ["f: no shape of what it returns"]
    assert of('def f(a: Tensor) -> Tensor:\n    """(B, D) of a."""') == []
    assert of('def f(a):\n    """Of a."""\n    raise InputError(a, a, a)') == ["f: no Raises"]
    assert of('def f(a):\n    """See `g`."""') == []
    assert of('def f(margin: float, b):\n    """Of b.\n\n    margin: m.\n    b: 1 radian."""') == [
        "f: no unit of margin"
    ]
    assert of('def f(margin: float):\n    """Of a\n\n    margin: m, in\n        radians."""') == []


def constructors(file: Path):
    """Of public classes: (name, the constructor, the class's docstring, which documents it)."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    yield node.name, one, ast.get_docstring(node) or ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_units_of_constructors_are_documented(file):
    found = [(name, unitless(node, text)) for name, node, text in constructors(file) if not ELSEWHERE.search(text)]
    assert [(name, wrong) for name, wrong in found if wrong] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_arguments_shapes_and_errors_are_documented(file):
    assert [one for name, node in public_functions(file) for one in mistakes(name, node)] == []
