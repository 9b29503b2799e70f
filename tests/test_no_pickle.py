# SPDX-License-Identifier: MIT
"""No pickle is read or written: a pickle runs whatever it says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}


def dotted(node):
    """`a.b.c` of a call's function, as far as it is made of names."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def is_constant(call, name, value):
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def offences(source):
    """What a source text does with pickles, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: import {name}" for name in names if name.partition(".")[0] in PICKLING]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        wrong = (
            (name == "torch.load" and not is_constant(node, "weights_only", True))
            or name == "torch.save"
            or (name in ("np.load", "numpy.load") and not is_constant(node, "allow_pickle", False))
            or is_constant(node, "allow_pickle", True)
            or name.endswith((".to_pickle", ".read_pickle", ".load_from_checkpoint", ".save_checkpoint"))
            or (name in ("yaml.load", "yaml.unsafe_load", "eval", "exec"))
        )
        if wrong:
            found.append(f"line {node.lineno}: {name or 'call'}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import dump",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.save(x, f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "frame.to_pickle(f)",
        "exec(text)",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert offences(source)


def test_the_search_lets_the_safe_forms_pass():
    assert not offences(
        "import json\ntorch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nmodel.eval()\nnp.save(f, x)"
    )


def test_no_module_reads_or_writes_a_pickle():
    assert len(FILES) > 50
    found = {str(file.relative_to(ROOT)): offences(file.read_text(encoding="utf-8")) for file in FILES}
    assert {file: lines for file, lines in found.items() if lines} == {}
