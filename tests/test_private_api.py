# SPDX-License-Identifier: MIT
"""Nothing private of another library is read, written, imported or overridden.

A name is private if it begins with an underscore and our four packages do not define it. An attribute that a foreign
function does not declare, such as the rank that Lightning keeps on `rank_zero_only`, is private too.
"""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datamodules", "lightning_modules", "callbacks", "experiments")
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))

# Where one is used, and why.
ALLOWED = {
    "experiments/training/worker.py: os._exit": "documented by Python; nothing else ends a process from a thread",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def own_names(tree: ast.AST) -> set[str]:
    """Private names that a module defines: functions, classes, variables, fields, and attributes of self or cls."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def is_foreign(module: str) -> bool:
    return module.split(".")[0] not in (*ROOMS, "tests", *sys.stdlib_module_names)


def uses(source: str, ours: set[str]) -> list[str]:
    """Private attributes, imports and getattr/setattr of a module, each as it is written there."""
    found, foreign = [], set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in filter(is_foreign, modules):
            if any(is_private(part) for part in module.split(".")):
                found.append(f"import {module}")
        if isinstance(node, (ast.Import, ast.ImportFrom)) and any(map(is_foreign, modules)):
            foreign |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if is_private(node.attr) and not of_self(node) and node.attr not in ours:
                found.append(ast.unparse(node))
            elif isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id in foreign:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            subject, name = node.args[:2]
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr") and isinstance(name, ast.Constant):
                of_import = isinstance(subject, ast.Name) and subject.id in foreign
                other = not isinstance(subject, ast.Name) or subject.id not in ("self", "cls")
                sets = node.func.id in ("setattr", "delattr") and other
                if of_import or sets or (is_private(name.value) and name.value not in ours):
                    found.append(f"{node.func.id}({ast.unparse(subject)}, {name.value!r})")
    return found


def overrides(kind: type) -> list[str]:
    """Private names of a class of ours, defined in it or looked up on self, that a foreign base has as well."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    names = own_names(tree) | {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and of_self(node)
    }  # fmt: skip
    bases = [base for base in kind.__mro__[1:] if is_foreign(base.__module__)]
    first = {name: next((base.__name__ for base in bases if has(base, name)), None) for name in sorted(names)}
    return [f"{kind.__name__}.{name} of {base}" for name, base in first.items() if base]


def has(kind: type, name: str) -> bool:
    if name in vars(kind):
        return True
    try:
        return re.search(rf"\bself\.{name}\b\s*(:[^=]+)?=[^=]", inspect.getsource(kind)) is not None
    except (OSError, TypeError):  # written in C
        return False


def classes(file: Path) -> list[type]:
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    return [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]


def test_each_kind_is_found():
    ours = own_names(ast.parse("class A:\n    def __init__(self): self._a = 1\n    def _b(self): ...\n_c = 2"))
    assert ours == {"_a", "_b", "_c"}
    assert uses("other._a, other._b, self._x, x.__dict__, x.y", ours) == []
    assert uses("loop._steps += 1\nprint(trainer.loop._steps)", ours) == ["loop._steps", "trainer.loop._steps"]
    assert uses("super()._check()", ours) == ["super()._check"]
    decorator = "from pytorch_lightning.utilities import rank_zero_only as r\n"
    for written in ("setattr(r, 'rank')", "getattr(r, 'rank')", "r.rank"):
        call = written.replace("')", "', 0)") if "(" in written else f"{written} = 0"
        assert uses(decorator + call, ours) == [written]
    assert uses("setattr(thing, 'rank', 0)", ours) == ["setattr(thing, 'rank')"]
    assert uses("getattr(thing, '_mmap', None)", ours) == ["getattr(thing, '_mmap')"]
    assert uses("setattr(self, 'rank', 0), getattr(thing, 'rank'), getattr(thing, '_a')", ours) == []
    assert uses("import torch._dynamo\nfrom ray._private import a", ours) == [
        "import torch._dynamo", "import ray._private.a",
    ]  # fmt: skip
    assert uses("from torch.optim import _functional", ours) == ["import torch.optim._functional"]
    assert uses("import _thread\nfrom experiments import _mine\nfrom . import _mine", ours) == []


def test_an_override_of_a_private_method_or_attribute_is_found():
    import torch

    class Overrides(torch.optim.SGD):
        def _init_group(self): ...

    class Writes(torch.optim.SGD):
        def __init__(self):
            self._warned_capturable_if_run_uncaptured = False

    class Neither(torch.optim.SGD):
        def __init__(self):
            self._of_ours = self._also_ours()

        def _also_ours(self): ...

    assert overrides(Overrides) == ["Overrides._init_group of SGD"]
    assert overrides(Writes) == ["Writes._warned_capturable_if_run_uncaptured of Optimizer"]
    assert overrides(Neither) == []


def test_nothing_private_of_another_library_is_used():
    sources = {file: file.read_text(encoding="utf-8") for file in FILES}
    ours = set().union(*(own_names(ast.parse(source)) for source in sources.values()))
    found = {
        f"{file.relative_to(ROOT)}: {one}"
        for file, source in sources.items()
        for one in [*uses(source, ours), *(name for kind in classes(file) for name in overrides(kind))]
    }
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set(), "no longer needed"
