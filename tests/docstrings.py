# SPDX-License-Identifier: MIT
"""Checks docstrings: `python -m tests.docstrings`, part of `make lint`.

Public docstrings say shapes of arrays, units of quantities, and which errors are raised. What name and type of an
argument already say needs no line; what stands under `Args:` is in the signature, in its order. A method that a base
class has too is documented there; a command's keys are documented by its schema.
"""

import ast
import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path

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
    found = [f"no shape of {one}" for one in shapeless(node)]
    found += [f"no unit of {one}" for one in unitless(node, text)]
    return [f"{name}: {one}" for one in [*found, *(["no Raises"] if raises_unsaid(node) else [])]]


def constructors(file: Path):
    """Of public classes: (name, the constructor, the class's docstring, which documents it)."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    yield node.name, one, ast.get_docstring(node) or ""


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


def fields(node):
    stated = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    stated = [item for item in stated if item.value is None or "init=False" not in ast.unparse(item.value)]
    return [item.target.id for item in stated if "ClassVar" not in ast.unparse(item.annotation)]


def foreign(source):
    """One line for each function or class whose Args section differs from its signature in names or order."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names = documented(ast.get_docstring(node) or "")
        if names is None:
            continue
        expected = [one.arg for one in arguments(node)] if not isinstance(node, ast.ClassDef) else None
        if expected is None:
            makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            is_data = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
            if makers:
                expected = [one.arg for one in arguments(makers[0])]
            elif is_data:
                expected = fields(node)
            else:
                continue  # the constructor is inherited
        if names != [name for name in expected if name in names]:
            found.append(f"{node.name}: documented {names}, signature {expected}")
    return found


def main() -> int:
    """Prints what is missing; 1 if anything is."""
    found = []
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        tree, wrong = ast.parse(source), foreign(source)
        if tree.body and not ast.get_docstring(tree):
            wrong.append("no docstring")
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                wrong += [] if ast.get_docstring(node) else [f"{node.name}: no docstring"]
        wrong += [one for name, node in public_functions(file) for one in mistakes(name, node)]
        for name, node, text in constructors(file):
            wrong += [f"{name}: no unit of {one}" for one in unitless(node, text) if not ELSEWHERE.search(text)]
        found += [f"{file.relative_to(ROOT)}: {one}" for one in wrong]
    print("\n".join(found) or f"{len(FILES)} files: docstrings say shapes, units and errors")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
