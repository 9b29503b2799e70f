# SPDX-License-Identifier: MIT
import io
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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


@pytest.fixture(scope="module")
def bin_file(tmp_path_factory):
    """Forty pairs of noise; pictures of one person are mirror images of each other, one pair is spoilt."""
    random = np.random.default_rng(0)
    pictures, same = [], []
    for pair in range(40):
        left, right = random.integers(0, 256, (2, 16, 16, 3), np.uint8)
        same.append(pair % 2 == 0)
        right = left[:, ::-1] if same[-1] != (pair == 3) else right
        for pixels in (left, right):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            pictures.append(stream.getvalue())
    path = tmp_path_factory.mktemp("bin") / "lfw.bin"
    path.write_bytes(pickle.dumps((pictures, same), 2))
    return path


def verify_bin(call, path, folder, *words):
    return call(
        "verify", "source=bin", f"source.path={path}", "extractor=random_projection", "extractor.image_size=16",
        "extraction.num_workers=0", f"runs_dir={folder}", "logger=none", "fars=[0.2]", "trainer.accelerator=cpu",
        *words,
    )  # fmt: skip


def test_a_verification_file_is_embedded_and_verified_in_ten_folds(bin_file, tmp_path, call):
    ended = verify_bin(call, bin_file, tmp_path, "name=flipped", "source.flip=true")
    assert ended.code == 0, ended.err
    row = pd.read_csv(tmp_path / "flipped/results.csv").iloc[0]
    assert row["pairs"] == 40 and row["folds"] == 10 and row["dataset"] == "lfw"
    assert row["accuracy"] == pytest.approx(97.5)  # all but the spoilt pair: mirror images have one sum
    assert row["accuracy_std"] == pytest.approx(np.std([75] + [100] * 9, ddof=1))
    ended = verify_bin(call, bin_file, tmp_path, "name=plain")
    assert ended.code == 0 and pd.read_csv(tmp_path / "plain/results.csv").iloc[0]["accuracy"] < 80
    assert sorted(one.name[:11] for one in (tmp_path / "embeddings").iterdir()) == ["verify-lfw-"] * 2


def test_a_hostile_or_a_damaged_file_costs_one_line(bin_file, tmp_path, call):
    hostile, broken = tmp_path / "hostile.bin", tmp_path / "broken.bin"
    hostile.write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    verify_bin(call, hostile, tmp_path / "runs").assert_refused("GLOBAL posix system")
    assert not (tmp_path / "runs").exists()
    broken.write_bytes(pickle.dumps(([b"no picture", *pickle.loads(bin_file.read_bytes())[0][1:]], [True] * 40), 4))
    verify_bin(call, broken, tmp_path / "runs").assert_refused("79 of 80 pictures")
    (pairs := tmp_path / "pairs.txt").write_text("1 1\n")
    verify_bin(call, bin_file, tmp_path / "runs", f"pairs={pairs}").assert_refused(
        "pairs=, although source= has its own"
    )
