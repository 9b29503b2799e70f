# SPDX-License-Identifier: MIT
"""The tutorials, followed word by word: their files go into a copy of the project, their commands run there.

A comparison gets overrides behind it that make it small; nothing else is changed.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.experiments.picture_identification.drawn_faces import draw_person
from tests.markdown import commands, files

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs/tutorials"
COPIED = ("datamodules", "lightning_modules", "callbacks", "experiments", "tests", "setup.cfg")
SMALL = ("seeds=1", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.threads=1", "logger=none")
SYNTHETIC = (
    "n_identities=[24]", "n_subnets=2", "data.dim=32", "data.intrinsic_dim=16", "data.samples_per_identity=8",
    "trainer.batch_size=64",
)  # fmt: skip


def small(words: list[str]) -> list[str]:
    """A command of a tutorial with what makes it quick behind it."""
    if words[:3] == ["python", "-m", "experiments.compare"]:
        return [*words, *SMALL, *(() if any("data.path=" in word for word in words) else SYNTHETIC)]
    if words[:3] == ["python", "-m", "experiments.train"]:
        return [*words, "n_identities=24", "logger=none"]
    if words[:3] == ["python", "-m", "experiments.prepare"]:
        return [*words, "extraction.num_workers=0"]
    return words


def plan(name: str) -> dict:
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    return {"files": files(text), "commands": [small(command.words) for command in commands(text)]}


def draw_pictures(project: Path) -> None:
    (project / "listed").mkdir()
    with (project / "listed/people.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "person"])
        for person in range(4):
            for picture in range(6):
                file = project / f"faces/person_{person}/{picture}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw_person(person, picture, side=80)).save(file)
                shutil.copyfile(file, project / f"listed/{person}-{picture}.png")
                table.writerow([f"{person}-{picture}.png", f"person {person}"])


def snapshot(project: Path) -> dict[str, bytes]:
    """The content of all code and configuration."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for folder in COPIED[:-1]
        for path in sorted((project / folder).rglob("*"))
        if path.suffix in (".py", ".yaml", ".j2", ".css", ".js")
    }


def follow(names: list[str], project: Path) -> dict[str, list[dict]]:
    """Copies the project, follows the tutorials there, in a process of its own; nothing else of the copy may change."""
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, project / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}))
    draw_pictures(project)
    before, plans = snapshot(project), [plan(name) for name in names]
    (project / "plan.json").write_text(json.dumps(plans), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.follow", "plan.json", "out.json"],
        cwd=project, env=environment, capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    new = set(snapshot(project)) - set(before)
    written = {path for one in plans for path in one["files"] if "/" in path}
    assert new == written and all(snapshot(project)[path] == content for path, content in before.items())
    return dict(zip(names, json.loads((project / "out.json").read_text(encoding="utf-8")), strict=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def quick(project):
    return follow(["loss"], project)


def check(results: list[dict]) -> list[str]:
    for result in results:
        assert result["code"] == 0, f"{' '.join(result['words'])}\n{result['out'][-3000:]}"
    return [result["out"] for result in results]


def passed(text: str) -> int:
    """Number of tests that passed, where none failed or was skipped."""
    last = text.strip().splitlines()[-1]
    assert "failed" not in last and "error" not in last and "skipped" not in last, text[-3000:]
    return int(last.replace("=", "").split(" passed")[0].split()[-1])


@pytest.mark.slow
def test_a_new_loss_is_two_files_and_appears_in_the_list_the_contract_tests_and_the_report(quick, project):
    listed, tested, *_ = check(quick["loss"])
    assert len(plan("loss")["files"]) == 2
    assert "loss\tcombined_margin\tAngle and cosine margin combined (CVPR 2019, eq. 4)" in listed.splitlines()
    assert passed(tested) >= 12  # nine contracts (one at three targets), the file's keys, its numbers, its first line
    report = (project / "runs/combined_margin/report.md").read_text(encoding="utf-8")
    assert "| Clustered + nearest class, loss=combined_margin |" in report
    page = (project / "runs/combined_margin/report.html").read_text(encoding="utf-8")
    assert page.count("Clustered + nearest class, loss=combined_margin") >= 3
    assert "combined_margin(margin=0.1)" in (project / "runs/narrow/results.csv").read_text(encoding="utf-8")


def check_metric(results: list[dict], project: Path) -> None:
    listed, tested, shown = check(results)
    assert len(plan("metric")["files"]) == 2
    assert any(line.startswith("metric\tworst_recall\t") for line in listed.splitlines())
    assert passed(tested) >= 5  # two contracts, the file's keys, its number, its first line
    with (project / "runs/worst/results.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 and all(float(row["worst_recall"]) <= float(row["recall"]) for row in rows)
    assert "Recall of the worst | Acc. of surest 90 %" in (project / "runs/worst/report.md").read_text(encoding="utf-8")
    assert "Recall of" in shown


def check_scenario(results: list[dict], project: Path) -> None:
    listed, tested, *_ = check(results)
    names = {tuple(line.split("\t")[:2]) for line in listed.splitlines()}
    new = ("partitioner", "slices"), ("router", "vote"), ("decision", "second_opinion"), ("scenario", "slices_vote")
    assert set(new) <= names
    assert passed(tested) >= 40
    with (project / "runs/three_choices/results.csv").open(encoding="utf-8") as stream:
        rows = {row["scenario"]: row for row in csv.DictReader(stream)}
    assert all(rows["slices_vote"][group] == name for group, name in new[:3])
    assert {f"{group}={name}" for group, name in new[:3]} <= set(rows)
    assert "slices + vote + second opinion, loss.margin=0.2" in (project / "runs/slices/report.md").read_text()
    assert (project / "identifier/identifier.json").is_file()
    # Exchanging the router alone trains nothing anew.
    assert rows["router=vote"]["train_seconds"] == rows["clustered_nearest"]["train_seconds"]


def check_parts(results: list[dict], project: Path) -> None:
    check(results)
    assert "two_layers" in (project / "runs/two_layers/identifier/identifier.json").read_text(encoding="utf-8")
    records = list((project / "runs/gradient_norm/subnetworks").glob("*/*.json"))
    assert records
    for record in records:
        history = json.loads(record.read_text(encoding="utf-8"))["history"]
        assert all(epoch["gradient/norm"] > 0 for epoch in history)
    with (project / "runs/rmsprop/results.csv").open(encoding="utf-8") as stream:
        first, second = csv.DictReader(stream)
    assert first["f1"] != second["f1"]


@pytest.mark.slow
def test_the_other_tutorials_one_after_another_in_one_copy(tmp_path):
    results = follow(["metric", "partitioner_router_decision", "extractor", "data_set", "parts"], tmp_path)
    check_parts(results["parts"], tmp_path)
    check_metric(results["metric"], tmp_path)
    check_scenario(results["partitioner_router_decision"], tmp_path)
    listed, tested, _, _ = check(results["extractor"])
    assert any(line.startswith("extractor\tgradients\t") for line in listed.splitlines())
    assert passed(tested) >= 12
    assert "gradients-" in (tmp_path / "faces_gradients/meta.json").read_text(encoding="utf-8")
    assert (tmp_path / "runs/gradients/report.html").is_file()
    wrote, _, listed, tested, _ = check(results["data_set"])
    assert "1797 embeddings of 10 identities" in wrote and passed(tested) >= 2  # its first line, its keys
    assert "source\ttable\t" in listed
    assert "person 3" in (tmp_path / "listed_set/identities.txt").read_text(encoding="utf-8")


def test_every_tutorial_is_followed():
    followed = {"loss", "metric", "partitioner_router_decision", "extractor", "data_set", "parts"}
    assert {page.stem for page in TUTORIALS.glob("*.md")} == followed
    for name in followed:
        text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        assert files(text) and all(not command.needs for command in commands(text))
        # Every block is either a file, or commands.
        assert len(files(text)) == text.count("```python\n") + text.count("```yaml\n")
