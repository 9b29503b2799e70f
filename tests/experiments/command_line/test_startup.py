# SPDX-License-Identifier: MIT
"""--help and a mistyped key are answered before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(file.stem for file in (ROOT / "experiments").glob("[!_]*.py"))
NEEDED = {"prepare": ["extractor=dlib"], "report": ["runs/mine"]}  # or these are missed before the typo is

# All commands in one process, which costs one start of Python: the first that imports too much is named.
CODE = """
import contextlib, importlib, io, json, sys
said = {}
for name, words, typo in json.loads(sys.stdin.read()):
    command = importlib.import_module(f"experiments.{name}")
    for word, expected in (("--help", 0), (typo, 2)):
        sys.argv, out, err = [name, *words, word], io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = command.main()
            except SystemExit as end:
                code = end.code
        assert (code or 0) == expected, (name, word, code, err.getvalue())
        said.setdefault(name, []).append(out.getvalue() + err.getvalue())
    heavy = {"torch", "pytorch_lightning", "pandas", "sklearn", "scipy", "matplotlib", "wandb"} & set(sys.modules)
    assert not heavy, (name, heavy)
print(json.dumps(said))
"""


def test_help_and_a_typo_need_nothing_heavy():
    typos = {
        name: "nothing_of_this_name=1" if (ROOT / "experiments/configs" / f"{name}.yaml").exists() else "--typo"
        for name in COMMANDS
    }
    asked = json.dumps([(name, NEEDED.get(name, []), typos[name]) for name in COMMANDS])
    ended = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, input=asked, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    for name, (helped, refused) in json.loads(ended.stdout).items():
        assert f"python -m experiments.{name}" in helped
        assert typos[name].partition("=")[0] in refused and refused.count("\n") == 1
