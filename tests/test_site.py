# SPDX-License-Identifier: MIT
"""The documentation site: links, order, reference and notebooks; the build itself is `make site`, part of CI."""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("pages", ROOT / "docs/site/pages.py")
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)


def leaves(order):
    """The pages of a tree of navigation."""
    for one in order:
        for value in one.values() if isinstance(one, dict) else [one]:
            yield from [value] if isinstance(value, str) else leaves(value)


@pytest.mark.parametrize(
    "source, page, before, after",
    [
        ("README.md", "index.md", "[a](docs/fused.md)", "[a](fused.md)"),
        ("README.md", "index.md", "![a\nb](docs/figures/x.svg)", "![a\nb](figures/x.svg)"),
        ("README.md", "index.md", "[a](docs/README.md) [b](CONTRIBUTING.md)", "[a](contents.md) [b](contributing.md)"),
        ("docs/README.md", "contents.md", "[a](../README.md) [b](fused.md#top)", "[a](index.md) [b](fused.md#top)"),
        ("docs/tutorials/loss.md", "tutorials/loss.md", "[a](../README.md) [b](#c)", "[a](../contents.md) [b](#c)"),
        ("docs/fused.md", "fused.md", "[a](https://b.org/README.md)", "[a](https://b.org/README.md)"),
        ("docs/fused.md", "fused.md", "[a](../nowhere.md)", "[a](../nowhere.md)"),  # MkDocs refuses it
    ],
)
def test_links_lead_where_the_page_lies_in_the_site(source, page, before, after):
    assert pages.moved(before, source, page) == after


def test_every_module_has_a_page_and_a_place_in_the_order():
    names = pages.modules()
    packages = ("datamodules", "lightning_modules", "callbacks", "experiments")
    files = {file for package in packages for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"}
    assert {ROOT / f"{name.replace('.', '/')}.py" for name in names} >= files
    assert sorted(leaves(pages.api_order(names))) == sorted(map(pages.api_page, names))
    assert pages.api_page("lightning_modules.losses.arcface") == "api/lightning_modules/losses/arcface.md"


def test_every_page_of_the_index_has_a_place_in_the_order():
    config = pages.on_config(type("Config", (), {})())
    written = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    found = set(leaves(config.nav))
    assert written <= found and {"index.md", "contents.md", "contributing.md", "changelog.md"} <= found


def test_a_notebook_becomes_a_page_with_its_answers_and_pictures(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"], "text/html": "<b>"}}]},
        {"cell_type": "code", "source": ["print(3)"], "outputs": [{"output_type": "stream", "text": ["3\n"]}]},
        {"cell_type": "code", "source": ["draw()"], "outputs": [{"data": {"image/png": "YWJj", "text/plain": "F"}}]},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    text, pictures = pages.notebook_page(tmp_path / "one.ipynb")
    assert "# Title\ntext\n" in text and "```python\n1 + 1\n```\n\n```text\n2\n```" in text and "<b>" not in text
    assert "```text\n3\n```" in text and text.endswith("](one_0.png)\n") and "(one.ipynb)" in text
    assert pictures == {"one_0.png": base64.b64decode("YWJj")}


def test_a_dead_link_ends_the_build(tmp_path):
    pytest.importorskip("mkdocs", reason="no MkDocs: pip install 'clusterface[site]'")
    shutil.copytree(ROOT / "docs/site", tmp_path / "docs/site")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"  - mkdocstrings:\n(?:    +.*\n)+", "", settings))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# Page\n")
    (tmp_path / "docs/README.md").write_text("| **A** | |\n| [one.md](one.md) | x |\n")
    for targets, code in ((["README.md", "#one"], 0), (["nowhere.md", "one.md#nowhere", "../../outside.md"], 1)):
        (tmp_path / "docs/one.md").write_text("# One\n\n" + "".join(f"[link]({target})\n" for target in targets))
        ended = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
        )
        assert ended.returncode == code, ended.stderr
        assert not code or all(f"'{target}'" in ended.stderr for target in targets)
    assert not re.search(r'(src|href)="https?://fonts', (tmp_path / "build/site/index.html").read_text())
