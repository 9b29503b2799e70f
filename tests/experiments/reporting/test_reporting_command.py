# SPDX-License-Identifier: MIT
import pytest

from experiments.report import main

TWO = ("ism", "clustered_nearest")


def test_redraws_in_place(make_run, capsys):
    folder = make_run(sizes=(1000,), seeds=(0, 1), scenarios=TWO)
    assert main([str(folder)]) == 0
    said = capsys.readouterr()
    assert "clustered_nearest" in said.out and str(folder / "report.html") in said.out and not said.err
    assert (folder / "report.html").is_file()


def test_merges(make_run, tmp_path, capsys):
    a, b = (make_run(f"{i}", sizes=(1000,), seeds=(i,), scenarios=TWO) for i in (0, 1))
    assert main([str(a), str(b), "--out", str(tmp_path / "merged")]) == 0
    assert "2 runs merged, 0 repeated rows dropped" in capsys.readouterr().out
    assert (tmp_path / "merged" / "report.html").is_file()
    assert not (a / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run_folders"),
        (["nowhere"], "no folder nowhere"),
        (["a", "b"], "--out"),
        (["a", "--outt", "x"], "--outt"),
        (["."], "results.csv"),
        (["nowhere", "--out", "merged"], "no folder nowhere"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and said in err and "expected" in err and "cure" in err
    assert list(tmp_path.iterdir()) == []
