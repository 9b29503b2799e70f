# SPDX-License-Identifier: MIT
import sys

import numpy as np
import pandas as pd
import pytest

from datamodules.embedding_set import EmbeddingSet
from experiments.verify import main


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 2)
    rows = np.repeat(np.eye(8), 2, axis=0) + random.normal(0, 0.02, (16, 8))
    rows[3] = rows[4] + 0.01  # one same pair far apart, and close to somebody else
    names = [f"p{label}/p{label}_{1 + place % 2:04d}.jpg" for place, label in enumerate(labels)]
    EmbeddingSet.write(tmp_path / "set", rows.astype(np.float32), labels, [f"p{i}" for i in range(8)], names)
    lines = ["2\t4"]
    for fold in (0, 1):
        people = [f"p{4 * fold + i}" for i in range(4)]
        lines += [f"{person}\t1\t2" for person in people]
        lines += [f"{person}\t1\t{other}\t2" for person, other in zip(people, people[1:] + people[:1], strict=True)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(monkeypatch, folder, *words):
    standard = [
        f"data.path={folder / 'set'}",
        f"pairs={folder / 'pairs.txt'}",
        f"runs_dir={folder / 'runs'}",
        "name=one",
        "logger=none",
    ]
    monkeypatch.setattr(sys, "argv", ["verify", *standard, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_one_command_gives_row_report_and_curve(files, monkeypatch, capsys):
    assert run(monkeypatch, files, "fars=[0.25]") == 0
    row = pd.read_csv(files / "runs/one/results.csv").iloc[0]
    assert row["pairs"] == 16 and row["folds"] == 2 and row["dataset"] == "set"
    assert row["accuracy"] == pytest.approx(100 * 15 / 16)  # all but the spoilt pair
    assert row["val_at_far_0.25"] == pytest.approx(100 * 7 / 8)
    assert (files / "runs/one/figures/roc_of_all_pairs.png").is_file()
    assert "93.75" in (files / "runs/one/report.md").read_text()
    assert "93.75" in capsys.readouterr().out
    assert run(monkeypatch, files, "fars=[0.5]") == 2  # another run in its place
    assert "begun with" in capsys.readouterr().err


def test_a_far_beyond_the_pairs_costs_one_line_and_leaves_nothing(files, monkeypatch, capsys):
    assert run(monkeypatch, files) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and "4 different pairs" in error[0] and "0.25 or more" in error[0]
    assert not (files / "runs/one").exists()


def test_an_absent_image_costs_one_line(files, monkeypatch, capsys):
    pairs = files / "pairs.txt"
    pairs.write_text(pairs.read_text().replace("p5\t1\t2", "p5\t1\t9"))
    assert run(monkeypatch, files, "fars=[0.25]") == 2
    assert "image 9 of p5" in capsys.readouterr().err
