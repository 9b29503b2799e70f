# SPDX-License-Identifier: MIT
"""Every error text of docs/troubleshooting.md is what the command above it prints, or at least stands in the code."""

import ast
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from datamodules.embedding_set import EmbeddingSet
from tests.markdown import blocks, commands

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
QUICK = ("trainer.accelerator=cpu", "trainer.threads=1", "logger=none")


@dataclass
class Trouble:
    """Commands, if any, and the text of the error that the last one ends with."""

    commands: list[list[str]] = field(default_factory=list)
    text: str = ""


def troubles() -> list[Trouble]:
    found, waiting = [], []
    for language, content in blocks(PAGE.read_text(encoding="utf-8")):
        if language == "bash":
            waiting = [command.words for command in commands(f"```bash\n{content}```\n")]
        elif language == "text":
            found.append(Trouble(waiting, content.strip()))
            waiting = []
    return found


PRODUCED = [trouble for trouble in troubles() if trouble.commands]
STATED = [trouble for trouble in troubles() if not trouble.commands]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, people):
    folder = tmp_path_factory.mktemp("trouble")
    EmbeddingSet.write(folder / "my_set", *people(n_identities=16, samples=(6, 6)))
    np.save(folder / "probes.npy", np.ones((3, 5), np.float32))
    for notes in ("notes", "runs/notes"):
        (folder / notes).mkdir(parents=True)
        (folder / notes / "a.txt").write_text("no picture")
    return folder


def squeezed(text: str) -> str:
    return " ".join(re.sub(r"[│┃]", " ", text).split())


@pytest.mark.parametrize("trouble", PRODUCED, ids=lambda trouble: trouble.commands[-1][-1])
def test_the_command_ends_with_that_error(trouble, workspace, call, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    for module in ("comparison.compare", "reporting.report"):
        monkeypatch.setattr(f"experiments.{module}.write_report", lambda folder, title=None: None)
    for words in trouble.commands:
        module, arguments = words[2].removeprefix("experiments."), words[3:]
        if module == "report":
            code = importlib.import_module("experiments.report").main(arguments)
            said = capsys.readouterr().err
        else:
            quick = QUICK if module in ("compare", "train") else ()
            ended = call(module, *arguments, *quick)
            code, said = ended.code, ended.err + ended.out
    if trouble.text.startswith("error: "):
        assert code == 2
    pattern = ".*".join(re.escape(squeezed(part)) for part in trouble.text.split("..."))
    assert re.search(pattern, squeezed(said)), said


def literals(file: Path) -> list[str]:
    """Every text of a file, with a mark where an f-string has a value."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
    return found


def test_the_other_errors_stand_in_the_code():
    files = [*(ROOT / "Makefile").read_text(encoding="utf-8").splitlines()]
    for package in ("datamodules", "lightning_modules", "callbacks", "experiments"):
        for file in (ROOT / package).rglob("*.py"):
            files += literals(file)
    code = "\n".join(files)
    for trouble in STATED:
        parts = re.split(r"\.\.\.|; (?=expected|cure)|^got |^; |\bexpected |\bcure: ", trouble.text)
        parts = [part.strip(" ,;()") for part in parts]
        known = [part for part in parts if len(part) > 8]
        assert known, trouble.text
        for part in known:
            # A number or a name may stand where the code has a value.
            assert part in code or re.search(re.sub(r"(\w+)", r"(?:\1|\0)", re.escape(part)), code), part


def test_most_errors_are_produced():
    assert len(PRODUCED) >= 18 and len(STATED) <= len(PRODUCED)
