# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.identity_batches import IdentityBatches, IdentityDataModule
from experiments.command_line.command import CONFIGS
from experiments.facenet.data import open_data
from experiments.facenet.training import build_network, load_miners, make_job, shape_lazy_layers, train_with_miner
from experiments.runs.run_folder import RunFolder


def composed(tmp_path, *words):
    import experiments.train_facenet  # noqa: F401  (stores the schema)

    if not (tmp_path / "set").exists():
        random = np.random.default_rng(0)
        rows = random.normal(size=(60, 6)).astype(np.float32)
        EmbeddingSet.write(tmp_path / "set", rows, np.repeat(np.arange(12), 5), [f"p{i}" for i in range(12)])
    given = [
        "data=embedding_set",
        f"data.path={tmp_path / 'set'}",
        "logger=none",
        "network.dim=3",
        "batch.identities=4",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return compose("train_facenet", [*given, "trainer.max_epochs=4", *words])


def trained(cfg, folder, report=lambda *values: None):
    network = build_network(cfg)
    people = open_data(cfg, network)
    batches = IdentityBatches(people.train.labels_N, cfg.batch.identities, cfg.batch.images, cfg.seed)
    data = IdentityDataModule(people.train, people.test, batches)
    shape_lazy_layers(network, data.predict_dataloader(), cfg.seed)
    with RunFolder(folder, cfg) as run:
        miner = load_miners(cfg)["batch_hard"]
        record = train_with_miner(make_job(run, people, cfg, "batch_hard", miner), miner, network, data, report)
    return network.state_dict(), record


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_was_cut_ends_as_one_that_was_not(tmp_path):
    cfg = composed(tmp_path)

    def cut(done, of, values):
        if done == 2:
            raise RuntimeError("power cut")

    straight, record = trained(cfg, tmp_path / "straight")
    with pytest.raises(RuntimeError, match="power cut"):
        trained(cfg, tmp_path / "cut", cut)
    epochs = []
    resumed, _ = trained(cfg, tmp_path / "cut", lambda done, of, values: epochs.append(done))
    assert epochs and epochs[0] > 1
    assert equal(straight, resumed)
    assert record["epochs"] == 4 and {"train/loss", "train/triplets", "train/active"} <= set(record["history"][0])
    assert not equal(straight, trained(composed(tmp_path, "seed=1"), tmp_path / "other")[0])


def test_data_must_be_of_the_kind_the_network_takes(tmp_path):
    cfg = composed(tmp_path, "source=image_folder", "source.root=faces")
    with pytest.raises(
        InputError, match="got data and source for a network on embeddings; expected data=embedding_set"
    ):
        open_data(cfg, build_network(cfg))
