# SPDX-License-Identifier: MIT
"""Packages name their classes without importing them; data show themselves in one line."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from datamodules.lazy import short_repr

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datamodules", "lightning_modules", "callbacks")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_names_the_public_classes_of_its_modules(name):
    package = importlib.import_module(name)
    places = defaultdict(list)
    for file in (ROOT / name).rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(".".join(file.relative_to(ROOT).with_suffix("").parts))
    once = {one: modules[0] for one, modules in places.items() if len(modules) == 1}
    assert set(places) - set(once) == ({"Metric"} if name == "lightning_modules" else set())
    assert set(package.__all__) == set(once) <= set(dir(package))
    for one in {"EmbeddingSet", "Partition", "ArcFace", "Identifier"} & set(once):
        assert getattr(package, one).__module__ == once[one]
    for wrong in ("Nobody", "Metric"):
        with pytest.raises(AttributeError, match=f"has no attribute '{wrong}'"):
            getattr(package, wrong)
    with pytest.raises(ImportError):
        exec(f"from {name} import nobody")


def test_naming_a_package_imports_nothing_heavy_and_asking_for_a_class_does():
    code = (
        "import sys, lightning_modules, callbacks, datamodules; assert 'Identifier' in dir(lightning_modules);"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules);"
        "from lightning_modules import ArcFace; assert ArcFace().scale == 64 and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def test_a_set_of_many_people_shows_itself_in_one_short_line(memory_set, toy_split):
    large = memory_set(n_identities=500)
    for data in (large, *toy_split, toy_split[1].train):
        line = repr(data)
        assert line == short_repr(data) and len(line) < 400 and "\n" not in line
    assert "identities=tuple of 500" in repr(large) and f"embeddings=float32 ({len(large)}, 8)" in repr(large)
