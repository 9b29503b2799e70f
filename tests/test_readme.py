# SPDX-License-Identifier: MIT
"""README.md: its commands run, in their order, in one folder, and what it states is so.

A command is called as it stands; behind it come overrides that make it small. What it needs and a test has not stands
above it in the README (`# needs: ...`).
"""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.experiments.picture_identification.drawn_faces import draw_person
from tests.markdown import Command, commands

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = commands(README)

TINY_TRAINING = ("trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.threads=1", "logger=none")
TINY_DATA = ("data.dim=32", "data.intrinsic_dim=16", "data.samples_per_identity=8", "n_identities=[24]")
TINY_SYNTHETIC = (*TINY_DATA, "n_subnets=2", "seeds=1", "trainer.batch_size=64")
CHEAP_PICTURES = ("extractor=random_projection", "alignment=prealigned", "extraction.num_workers=0")

# Not in the default suite: they start processes, find faces, or train much.
LONG = {
    "launcher=processes": "starts worker processes",
    "sweep=m": "trains several runs",
    "suite=all": "trains every system",
    "name=ours": "fits the decision of ours and builds an index",
    "name=cosface": "is a comparison like those before",
}


def overrides(command: Command, cheap: bool) -> list[str]:
    """What makes a command of the README small; with `cheap` pictures are not searched for faces."""
    module = command.words[2] if command.words[:2] == ["python", "-m"] else ""
    if " run=" in command.line:
        return ["n_identities=24", "logger=none"]
    more = list(TINY_TRAINING) if module in ("experiments.compare", "experiments.train") else []
    if module == "experiments.compare" and "data.path=" not in command.line:
        more += TINY_SYNTHETIC
    if "launcher=processes" in command.line:
        more += ["launcher.workers=2"]
    if module == "experiments.compare" and "data.path=" in command.line:
        more += ["seeds=1"]
    if "suite=all" in command.line:
        more += ["launcher=in_process"]
    if module == "experiments.prepare":
        more += CHEAP_PICTURES if cheap else ["extraction.num_workers=0"]
    if module == "experiments.identify" and "images=" in command.line:
        more += ["num_workers=0"]
    if "fpir=" in command.line:
        more += ["fpir=0.4"]  # as few pictures of unknown people as there are here
    return more


def is_long(command: Command) -> bool:
    return any(part in command.line for part in LONG)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder as the README takes it for granted: pictures of people, in faces/, probes/ and newcomers/."""
    folders = {"faces": (range(6), range(6)), "probes": (range(7), (9,)), "newcomers": ((8, 9), range(3))}
    for folder, (people, pictures) in folders.items():
        for person in people:
            for picture in pictures:
                file = tmp_path / folder / f"person_{person}" / f"{picture}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw_person(person, picture, side=120)).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_in_order(which, call, cheap: bool) -> None:
    for command in which:
        module = command.words[2].removeprefix("experiments.")
        if module in ("list", "report"):  # they return their exit code
            ended = importlib.import_module(f"experiments.{module}").main(command.words[3:])
            assert ended == 0, command.line
            continue
        ended = call(module, *command.words[3:], *overrides(command, cheap))
        assert ended.code == 0, f"{command.line}\n{ended.err}{ended.out}"


RUN_HERE = [c for c in COMMANDS if not c.needs and c.words[0] == "python"]


def test_a_user_s_first_hour(workspace, call, monkeypatch):
    for module in ("comparison.compare", "reporting.report"):  # has its tests
        monkeypatch.setattr(f"experiments.{module}.write_report", lambda folder, title=None: None)
    run_in_order([command for command in RUN_HERE if not is_long(command)], call, cheap=True)
    assert (workspace / "runs/first/results.csv").is_file() and (workspace / "runs/faces/results.csv").is_file()
    names = (workspace / "names.csv").read_text(encoding="utf-8").splitlines()
    assert len(names) == 1 + 7 and names[0].startswith("file,face")
    assert (workspace / "identifier_2").is_dir() and (workspace / "people.onnx").is_file()
    assert len((workspace / "again.csv").read_text(encoding="utf-8").splitlines()) == 1 + 36


@pytest.mark.slow
def test_every_command_in_its_order(workspace, call):
    pytest.importorskip("dlib", reason="extra dlib is not installed")
    run_in_order(RUN_HERE, call, cheap=False)
    for name in ("first", "ours", "faces", "cosface", "workers", "sweep-m", "everything"):
        page = (workspace / "runs" / name / "report.html").read_text(encoding="utf-8")
        assert "<table" in page, name
    assert "Clustered + nearest class, loss=cosface" in (workspace / "runs/cosface/report.md").read_text(
        encoding="utf-8"
    )


def test_every_command_is_run_here_or_says_what_it_needs():
    for command in COMMANDS:
        if command.needs:
            assert len(command.needs) > 10, command.line
        else:
            assert command.words[0] in ("python", "make"), command.line
    assert len(RUN_HERE) >= 15 and sum(is_long(command) for command in RUN_HERE) < len(RUN_HERE) / 2
    assert all(any(part in command.line for command in RUN_HERE) for part in LONG)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_the_two_commands_are_targets_and_the_demo_s_comparison_runs(tmp_path, call, monkeypatch):
    for module in ("comparison.compare", "reporting.report"):
        monkeypatch.setattr(f"experiments.{module}.write_report", lambda folder, title=None: None)
    monkeypatch.chdir(tmp_path)
    assert [command.line for command in COMMANDS if command.words[0] == "make"] == ["make demo", "make test"]
    for target in ("demo", "test"):
        made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        if target == "demo":
            (line,) = [line for line in made.stdout.splitlines() if "experiments.compare" in line]
            words = line.partition("experiments.compare ")[2].split()
    ended = call("compare", *words, *TINY_TRAINING, *TINY_SYNTHETIC)
    assert ended.code == 0, ended.err
    assert "report: runs/demo/report.html" in ended.out


def test_every_command_stands_in_the_table_and_in_no_other():
    told = set(re.findall(r"^\| `python -m experiments\.(\w+)` \|", README, re.M))
    assert told == {file.stem for file in (ROOT / "experiments").glob("*.py")} - {"__init__"}


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, name


def test_the_numbers_of_the_result_are_those_of_the_page_of_results():
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    section = README.partition("## A result\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    numbers = [number for row in rows for number in re.findall(r"\d+\.\d\d ± \d\.\d\d|\+\d.\d\d \[[^]]+\]", row)]
    assert len(rows) == 9 and len(numbers) == 27
    for number in numbers:
        assert number in results, f"{number} is not in docs/results.md"
    (line,) = re.findall(r"`(python -m experiments\.compare data=embedding_set[^`]*)`", section)
    assert line.replace("\n", " ").split("n_subnets")[1] in results
