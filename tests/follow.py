# SPDX-License-Identifier: MIT
"""Follows tutorials in the folder where it is started, a copy of the project: python -m tests.follow PLAN.json OUT.json

The plan is a list of tutorials, each with `files` (path to content) to write and `commands` (lists of words) to run, in
one process, since importing torch costs more than all of them. Each command leaves its exit code and what it wrote.
"""

import contextlib
import importlib
import io
import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def run(words: list[str]) -> dict:
    """Runs `python FILE` or `python -m MODULE` with its words here.

    Args:
        words: the command line, beginning with python.

    Returns:
        words, code, out (standard output and error together).
    """
    name, arguments, as_module = (words[2], words[3:], True) if words[1] == "-m" else (words[1], words[2:], False)
    written, before = io.StringIO(), list(sys.argv)
    code: object = 0
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        sys.argv = [name, *arguments]
        try:
            if name == "pytest":
                import pytest

                for module in [module for module in sys.modules if module.startswith("tests.") and ".test_" in module]:
                    del sys.modules[module]  # what they found in the configurations is of the tutorial before
                code = int(pytest.main([*arguments, "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]))
            elif as_module:
                runpy.run_module(name, run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(name, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    sys.argv = before
    return {"words": words, "code": code, "out": written.getvalue()}


def main(plan: Path, out: Path) -> None:
    """Follows a plan.

    Args:
        plan: JSON list of tutorials.
        out: where the results go, a list of results for each.
    """
    os.environ["WANDB_MODE"] = "offline"
    results = []
    for tutorial in json.loads(plan.read_text(encoding="utf-8")):
        for path, content in tutorial["files"].items():
            assert not Path(path).exists(), f"{path} is there already"
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(content, encoding="utf-8")
        importlib.invalidate_caches()
        results.append([run(words) for words in tutorial["commands"]])
    out.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
