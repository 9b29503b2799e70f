# SPDX-License-Identifier: MIT
"""--help and a mistyped key are answered before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(file.stem for file in (ROOT / "experiments").glob("[!_]*.py"))
NEEDED = {"prepare": ["extractor=dlib"], "report": ["runs/mine"]}  # or these are missed before the typo is

# All commands in one process, which costs one start of Python: the first that imports too much is named.
# And errors of input that can be seen without the imports.
WRONG = {
    "compare": [
        ["data.path=/nowhere"],
        ["scenarios=[kn]"],
        ["trainer.max_epoch=3"],
        ["n_subnets=abc"],
        ["seeds=[-1]"],
        ["metrics=[confident]"],
        ["refit=all"],
    ],
    "train": [["data.path=/nowhere"], ["scenario=kn"], ["run=/nowhere", "out=x"]],
    "prepare": [["source.root=/nowhere", "extractor=dlib", "out=x"], []],
    "identify": [["identifier=/nowhere", "images=."], ["identifier=."], ["identifier=.", "images=.", "faces=none"]],
    "enrol": [["identifier=/nowhere", "remove=[Zoë]"], ["identifier=."], ["identifier=.", "move=a.jpg"]],
    "export": [["identifier=/nowhere", "out=x"], ["out=x"], ["identifier=.", "out=x", "format=onx"]],
    "train_facenet": [["data.path=/nowhere"], ["miners=[batch_soft]"], ["miners=[]"]],
    "cluster_images": [
        ["source.root=/nowhere", "extractor=vgg16"],
        ["source.root=.", "extractor=vgg16", "losses=[cubic]"],
    ],
    "verify": [["data.path=/nowhere", "pairs=x"], ["data.path=.", "pairs=.", "extractor=dlib"]],
    "multilabel": [["data.path=/nowhere.arff"], ["data.path=setup.cfg", "methods=[ml_kn]"]],
}
CODE = """
import contextlib, importlib, io, json, sys
said = {}
for name, words, typo, wrong in json.loads(sys.stdin.read()):
    command = importlib.import_module(f"experiments.{name}")
    for word, expected in ([*words, "--help"], 0), ([*words, typo], 2), *((one, 2) for one in wrong):
        sys.argv, out, err = [name, *word], io.StringIO(), io.StringIO()
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
    asked = json.dumps([(name, NEEDED.get(name, []), typos[name], WRONG.get(name, [])) for name in COMMANDS])
    ended = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, input=asked, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    for name, (helped, refused, *wrong) in json.loads(ended.stdout).items():
        assert f"python -m experiments.{name}" in helped
        assert typos[name].partition("=")[0] in refused and refused.count("\n") == 1
        assert all(line.startswith("error: got ") and line.count("\n") == 1 for line in wrong), wrong


@pytest.fixture
def program():
    """`program(word, ...)`: runs `clusterface` with these words."""
    code = "from experiments.command_line.entry import main; main()"
    return lambda *words: subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_program_lists_every_command_with_what_it_is(program, words):
    ended = program(*words)
    assert ended.returncode == 0, ended.stderr
    listed = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines() if line.startswith("  "))
    assert sorted(listed) == COMMANDS and all(listed.values())
    assert listed["train_facenet"] == "Triplet training of one embedding"


def test_a_command_of_the_program_is_the_module(program):
    ended = program("compare", "--help")
    assert ended.returncode == 0 and "python -m experiments.compare n_identities=" in ended.stdout, ended.stderr
    ended = program("list", "routers")
    assert ended.returncode == 2 and ended.stderr.startswith("error: got group 'routers'")


def test_a_misspelt_command_gets_the_nearest_one(program):
    ended = program("comprae", "seeds=1")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("did you mean compare?\n") and "got no command 'comprae'" in ended.stderr
