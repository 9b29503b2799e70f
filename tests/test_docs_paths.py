# SPDX-License-Identifier: MIT
"""Files and modules that README.md and docs/ name exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.markdown import files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = "datamodules|lightning_modules|callbacks|experiments|tests"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IN_PACKAGE = re.compile(rf"`((?:{PACKAGES})/[\w/.*-]*)`")
PYTHON_OR_YAML = re.compile(r"`([\w/.*-]+\.(?:py|yaml))`")
DOTTED = re.compile(rf"(?<![\w/.])(?:{PACKAGES})(?:\.\w+)+")
OF_A_RUN = {"config.yaml"}


def paths_in(text: str) -> set[str]:
    """Paths in backticks that start at the root of the project, and every Python or YAML file in backticks."""
    return {*IN_PACKAGE.findall(text), *PYTHON_OR_YAML.findall(text)} - OF_A_RUN


def exists(name: str) -> bool:
    """Whether a module, or a name at the top of a module, exists; `name` is dotted."""
    parts = name.split(".")
    for used in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:used])
        if path.is_dir():
            return used == len(parts)
        if (file := path.with_suffix(".py")).is_file():
            body = ast.parse(file.read_text(encoding="utf-8")).body
            defined = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            return used == len(parts) or parts[used] in defined
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_and_modules_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    made = files(text)  # a tutorial writes these files itself
    missing = {name for name in paths_in(text) if not list(ROOT.glob(name.rstrip("/").replace("NAME", "*")))}
    modules = {path.removesuffix(".py").replace("/", ".") for path in made}
    missing |= {
        name for name in DOTTED.findall(text)
        if ".NAME" not in name and not exists(name) and not {name, name.rpartition(".")[0]} & modules
    }  # fmt: skip
    assert missing <= set(made), f"{page.name} names {sorted(missing - set(made))}"


def test_a_wrong_name_is_found():
    assert exists("experiments.compare") and exists("lightning_modules.losses.arcface.ArcFace")
    assert not exists("experiments.comparison_of_nothing") and not exists("lightning_modules.losses.arcface.Nobody")
    assert paths_in("`experiments/nothing.py` `tests/` `a/b.py` `config.yaml`") == {
        "experiments/nothing.py", "tests/", "a/b.py",
    }  # fmt: skip
