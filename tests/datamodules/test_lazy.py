# SPDX-License-Identifier: MIT
"""Packages name their classes without importing them; data show themselves in one line."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.lazy import short_repr

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    ".".join(file.relative_to(ROOT).parent.parts)
    for room in ("datamodules", "lightning_modules", "callbacks")
    for file in (ROOT / room).rglob("__init__.py")
)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_names_the_public_classes_of_its_modules(name):
    package = importlib.import_module(name)
    files = [file for file in Path(package.__file__).parent.glob("*.py") if file.stem != "__init__"]
    found = {
        node.name: f"{name}.{file.stem}"
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    assert set(package.__all__) == set(found) <= set(dir(package))
    pytest.importorskip("facenet_pytorch")
    for one in list(found)[:2]:
        assert getattr(package, one).__module__ == found[one]
    with pytest.raises(AttributeError, match="has no attribute 'Nobody'"):
        _ = package.Nobody
    with pytest.raises(ImportError):
        exec(f"from {name} import nobody")


def test_naming_a_package_imports_nothing_heavy_and_asking_for_a_class_does():
    code = (
        "import sys, lightning_modules, callbacks, datamodules; assert 'Identifier' in dir(lightning_modules);"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules);"
        "from lightning_modules.losses import ArcFace; assert ArcFace().scale == 64 and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def test_a_set_of_many_people_shows_itself_in_one_short_line(memory_set, toy_split):
    large = memory_set(n_identities=500)
    for data in (large, *toy_split, toy_split[1].train):
        line = repr(data)
        assert line == short_repr(data) and len(line) < 400 and "\n" not in line
    assert "identities=tuple of 500" in repr(large) and f"embeddings=float32 ({len(large)}, 8)" in repr(large)
