# SPDX-License-Identifier: MIT
"""Wishes about the whole fit: each is a command of its own in a copy of the project, see `workbench`."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from datamodules.embedding_set import EmbeddingSet
from tests.experiments.picture_identification.drawn_faces import draw_person
from tests.markdown import files as files_of
from tests.wishes import wish_files as files
from tests.wishes.workbench import ROOT, plain_sgd

PAGE = files_of((ROOT / "docs/tutorials/parts.md").read_text(encoding="utf-8"))
SGD = ("loss=cosface", "optimizer=sgd", "optimizer.lr=0.01", "trainer.max_epochs=4")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def test_8_early_stopping(bench):
    options = ("callbacks=[early_stopping]", "callbacks.early_stopping.patience=2", "optimizer.lr=0")
    bench.train("early", *options, "trainer.max_epochs=20")
    _, history = bench.network("early")
    assert len(history) == 3  # one that sets the mark, two without a better one


@pytest.mark.slow
def test_9_ema(bench):
    bench.train("ema", *SGD, "callbacks=[ema]", "callbacks.ema.decay=0.5")
    weights, _ = bench.network("ema")
    steps = plain_sgd(bench, 4, 0.01)
    mean_CD = steps[0]
    for step_CD in steps[1:]:
        mean_CD = 0.5 * mean_CD + 0.5 * step_CD
    torch.testing.assert_close(weights["head.weight_CD"], mean_CD, **CLOSE)


@pytest.mark.slow
def test_10_gradient_clipping(bench):
    bench.train("clipped", *SGD, "trainer.gradient_clip_val=0.5")
    weights, _ = bench.network("clipped")
    torch.testing.assert_close(weights["head.weight_CD"], plain_sgd(bench, 4, 0.01, clip=0.5)[-1], **CLOSE)


@pytest.mark.slow
def test_11_accumulation_and_half_precision_that_is_refused(bench):
    half, rest = divmod(len(bench.splits.train), 2)
    assert not rest
    bench.train("accumulated", *SGD, "trainer.accumulate_grad_batches=2", f"trainer.batch_size={half}")
    weights, _ = bench.network("accumulated")
    torch.testing.assert_close(weights["head.weight_CD"], plain_sgd(bench, 4, 0.01)[-1], **CLOSE)
    said = bench.train("half", "trainer.precision=bf16-mixed", code=2)
    assert "bf16-mixed" in said and "trainer.matmul=medium" in said and not (bench.folder / "runs/half").exists()


def test_12_a_callback_of_my_own(bench):
    bench.wish({path: text for path, text in PAGE.items() if "gradient_norm" in path})
    bench.train("norms", "loss=cosface", "optimizer.lr=0", "trainer.max_epochs=3", "callbacks=[gradient_norm]")
    weight_CD, (x_BD, target_B) = bench.means().requires_grad_(), bench.samples(bench.splits.train)
    margin_BC = 0.35 * F.one_hot(target_B, len(weight_CD))
    F.cross_entropy(64 * (x_BD @ F.normalize(weight_CD).T - margin_BC), target_B).backward()
    _, history = bench.network("norms")
    np.testing.assert_allclose([epoch["gradient/norm"] for epoch in history], [weight_CD.grad.norm()] * 3, rtol=1e-3)


def test_15_a_two_layer_head_through_identify(bench):
    bench.wish({path: text for path, text in PAGE.items() if "two_layers" in path})
    options = ("head=two_layers", "trainer.max_epochs=3", "n_subnets=2", "out=with_two_layers")
    bench.train("layers", *options, scenario="clustered_nearest")
    bench.run("identify", "identifier=with_two_layers", "embeddings=toy", "out=names.csv")
    names, data = pd.read_csv(bench.folder / "names.csv"), bench.data
    x_ND = F.normalize(torch.tensor(np.asarray(data.embeddings)))
    (folder,) = (bench.folder / "runs/layers/partitions").iterdir()
    cluster_of = np.load(folder / "partition.npy")
    for cluster in (0, 1):
        weights, _ = bench.network("layers", cluster=cluster)
        assert weights["head.hidden.bias"].abs().max() > 0  # it was zero before training
        hidden_ND = x_ND + (x_ND @ weights["head.hidden.weight"].T + weights["head.hidden.bias"]).clamp_min(0)
        output_NC = F.normalize(hidden_ND) @ F.normalize(weights["head.rows"]).T
        routed = (names.cluster == cluster).to_numpy()
        members = np.flatnonzero(cluster_of == cluster)
        score, place = (part.numpy()[routed] for part in output_NC.max(1))
        assert routed.any() and names.identity[routed].tolist() == [data.identities[members[i]] for i in place]
        np.testing.assert_allclose(names.score[routed], score, atol=1e-5)


@pytest.mark.slow
def test_16_resnet18_of_torchvision_as_an_extractor(bench):
    torchvision = pytest.importorskip("torchvision")
    bench.wish(files.EXTRACTOR)
    pictures = [draw_person(person, picture, side=64)[6:70] for person in range(2) for picture in range(5)]
    for place, picture in enumerate(pictures):
        file = bench.folder / f"faces/person_{place // 5}/{place % 5}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    bench.run(
        "prepare", "source.root=faces", "extractor=resnet18", "out=faces_resnet18", "extraction.num_workers=0",
        "extraction.dtype=float32", "trainer.accelerator=cpu",
    )  # fmt: skip
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1)
    found = torch.tensor(np.asarray(EmbeddingSet.open(bench.folder / "faces_resnet18").embeddings))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_20_an_experiment_file_and_fast_dev_run(bench):
    bench.wish(files.EXPERIMENT)
    bench.run(
        "train", "data=embedding_set", "data.path=toy", "experiment=mine", "trainer.fast_dev_run=true", "name=tried",
        "scenario=no_distribution", "trainer.accelerator=cpu", "logger=none", "init=prototype", "optimizer.lr=0",
    )  # fmt: skip
    weights, history = bench.network("tried")
    assert weights["head.factor_Cr"].shape == (12, 3) and len(history) == 1
    config = (bench.folder / "runs/tried/config.yaml").read_text()
    assert "margin: 0.2" in config and "CosFace" in config and "max_epochs: 7" in config


@pytest.mark.slow
def test_22_ten_more_epochs(bench):
    rows, options = ["no_distribution"], ("loss=cosface", "optimizer=sgd", "optimizer.lr=0.01")
    bench.compare("more", rows, *options, "trainer.max_epochs=2")
    _, first = bench.network("more")
    bench.compare("more", rows, *options, "trainer.max_epochs=12")
    weights, history = bench.network("more", rows[0])
    assert [record["epoch"] for record in history] == list(range(12))
    assert history[:2] == first  # seconds included: they were not trained again
    torch.testing.assert_close(weights["head.weight_CD"], plain_sgd(bench, 12, 0.01)[-1], rtol=1e-2, atol=1e-3)
    assert bench.results("more").epochs[rows[0]] == 12
    falling = (*options, "scheduler=linear")
    bench.train("falling", *falling, "trainer.max_epochs=1", "out=first")
    said = bench.train("falling", *falling, "trainer.max_epochs=2", "out=second", code=2)
    assert said.count("\n") == 1 and "trainer.max_epochs" in said and not (bench.folder / "second").exists()
