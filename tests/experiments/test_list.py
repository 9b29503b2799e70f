# SPDX-License-Identifier: MIT
"""experiments.list: every choice once, with its first line; quick, since nothing of it is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import list as command
from experiments.command_line import choices as listing

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_of_every_group_is_listed_once(capsys):
    assert command.main([]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {(group, name) for group, name, _ in rows} == {
        (file.parent.name, file.stem) for file in (ROOT / "experiments/configs").glob("*/*.yaml")
    }
    assert len({tuple(row) for row in rows}) == len(rows) and all(about for _, _, about in rows)
    assert not [about for _, _, about in rows if about.startswith("@")], "what Hydra reads is no description"
    groups = "data source extractor loss partitioner init router decision scenario launcher logger".split()
    assert set(groups) <= {group for group, _, _ in rows}


def test_only_the_groups_asked_for_in_their_order(capsys):
    assert command.main(["router", "init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == sorted((line.split("\t")[0] for line in lines), reverse=True)
    assert "init\tprototype\tEvery class row starts at its class mean" in lines


def test_an_unknown_group_and_an_unknown_option_are_refused(capsys):
    for words in (["losses"], ["--all"]):
        assert command.main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: got ") and err.count("\n") == 1
    assert command.main(["losses"]) == 2 and "loss, " in capsys.readouterr().err


def test_a_new_file_is_there_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/mine.yaml").write_text("# My loss\n_target_: a.B\n")
    monkeypatch.setattr(listing, "CONFIGS", tmp_path)
    assert command.main([]) == 0 and capsys.readouterr().out == "loss\tmine\tMy loss\n"


def test_the_page_of_keys_is_current(tmp_path):
    assert command.main(["--keys", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == written, "the configurations have changed: make docs"
    assert "| loss | `arcface` |" in page and "| trainer.max_epochs | `50` | passes over" in page
    for group, name in (("loss", "`margin: 0.5`"), ("partitioner", "`kmeans`"), ("router", "`p: 1`")):
        assert name in page.partition(f"### {group}\n")[2].partition("\n### ")[0]


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(command, "results", lambda: Console(force_terminal=True, width=100))
    assert command.main(["router"]) == 0
    out = capsys.readouterr().out
    assert "what it is" in out and "cluster_mean" in out and "\t" not in out


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_nothing_heavy_is_imported(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['list', *{words!r}]\n"
        "try: runpy.run_module('experiments.list', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'pytorch_lightning', 'hydra', 'pandas'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "loss" in ended.stdout
