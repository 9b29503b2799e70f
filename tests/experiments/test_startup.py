# SPDX-License-Identifier: MIT
"""--help and a mistyped key are answered before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import importlib, sys
command = importlib.import_module("experiments.NAME")
for word, code in (("--help", 0), ("nothing_of_this_name=1", 2)):
    sys.argv = ["NAME", word]
    try:
        command.main()
    except SystemExit as end:
        assert (end.code or 0) == code, (word, end.code)
heavy = {"torch", "pytorch_lightning", "pandas", "sklearn", "matplotlib", "wandb"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["train", "compare", "identify", "prepare", "enrol", "export"])
def test_help_and_a_typo_need_neither_torch_nor_lightning(name):
    more = ["extractor=dlib"] if name == "prepare" else []
    code = CODE.replace("NAME", name).replace("word]", f"word, *{more}]")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert f"python -m experiments.{name}" in ended.stdout and "nothing_of_this_name" in ended.stderr
