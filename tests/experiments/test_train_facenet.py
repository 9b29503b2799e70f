# SPDX-License-Identifier: MIT
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from PIL import Image

from datamodules.embedding_set import EmbeddingSet
from experiments.train_facenet import main


def run(monkeypatch, runs, *words):
    standard = [f"runs_dir={runs}", "logger=none", "evaluation.folds=2", "evaluation.fars=[0.1]"]
    monkeypatch.setattr(sys, "argv", ["train_facenet", *standard, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture
def embeddings(tmp_path):
    """Thirty identities told apart by four coordinates of ten, the others are louder noise."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 8)
    rows = random.normal(0, 1.0, (240, 10))
    rows[:, :4] = random.normal(0, 1.5, (30, 4))[labels] + random.normal(0, 0.1, (240, 4))
    EmbeddingSet.write(tmp_path / "set", rows.astype(np.float32), labels, [f"p{i}" for i in range(30)])
    return f"data.path={tmp_path / 'set'}"


def test_training_helps_people_it_has_not_seen_and_is_done_once(embeddings, tmp_path, monkeypatch, capsys):
    words = [
        "data=embedding_set",
        embeddings,
        "name=one",
        "network.dim=4",
        "trainer.max_epochs=8",
        "evaluation.held_out=0.4",
    ]
    assert run(monkeypatch, tmp_path / "runs", *words, "miners=[semi_hard,batch_hard]") == 0
    folder = tmp_path / "runs/one"
    frame = pd.read_csv(folder / "results.csv").set_index("method")
    assert list(frame.index) == ["before_training", "semi_hard", "batch_hard"]
    assert frame["accuracy"].iloc[1:].max() > frame["accuracy"].iloc[0]
    assert frame["knn_accuracy"].iloc[1:].max() > frame["knn_accuracy"].iloc[0]
    assert (frame["train_images"] + frame["test_images"] == 240).all()
    assert (folder / "figures/roc_of_held_out_identities.png").is_file() and (folder / "figures/training.png").is_file()
    weights = sorted(folder.glob("subnetworks/*/?????.safetensors"))
    assert len(weights) == 2
    assert safetensors.torch.load_file(weights[0])["layers.0.weight"].shape == (4, 10)

    times = [file.stat().st_mtime_ns for file in weights]
    assert run(monkeypatch, tmp_path / "runs", *words, "miners=[semi_hard,batch_hard]") == 0
    assert [file.stat().st_mtime_ns for file in weights] == times
    pd.testing.assert_frame_equal(pd.read_csv(folder / "results.csv").set_index("method"), frame)


def test_a_network_on_images_trains_too(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    random = np.random.default_rng(0)
    for person in range(8):
        folder = tmp_path / "faces" / f"p{person}"
        folder.mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for i in range(4):
            noise = random.integers(-40, 40, (32, 32, 3))
            Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    network = [
        "network=timm",
        "network.model=resnet10t",
        "network.image_size=32",
        "network.dim=8",
        "trainer.max_epochs=1",
    ]
    words = ["source=image_folder", f"source.root={tmp_path / 'faces'}", *network, "miners=[batch_hard]", "name=two"]
    assert run(monkeypatch, tmp_path / "runs", *words, "evaluation.held_out=0.5") == 0
    frame = pd.read_csv(tmp_path / "runs/two/results.csv")
    assert frame["dataset"].tolist() == ["faces", "faces"] and frame["epochs"].iloc[1] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no data for a network on embeddings"),
        (["network=inception_resnet", "network.weights=lfw"], "vggface2"),
        (["miners=[hardest]"], "batch_all, batch_hard, semi_hard"),
        (["alpha=0"], "alpha = 0"),
        (["batch.images=1"], "batch.images = 1"),
        (["batch.identities=1"], "batch.identities = 1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs = 0"),
        (["evaluation.held_out=0.99"], "two identities on either side"),
        (["evaluation.fars=[1e-6]"], "FAR 1e-06"),
        (["evaluation.knn=1000"], "k = 1000"),
        (["margin=1"], "margin"),
    ],
)
def test_what_cannot_be_done_costs_one_line_before_any_training(
    embeddings, tmp_path, monkeypatch, capsys, words, message
):
    data = ["data=embedding_set", embeddings] if words else []
    assert run(monkeypatch, tmp_path / "runs", *data, "name=bad", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "runs/bad").exists()
