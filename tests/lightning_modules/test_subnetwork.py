# SPDX-License-Identifier: MIT
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import normalize

from callbacks.history import History
from datamodules.cluster_datamodule import ClusterDataModule
from lightning_modules.heads import Head
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.normface import NormFace
from lightning_modules.subnetwork import SubNetwork

MEMBERS = np.array([0, 2, 3, 7, 8], np.int32)
ADAM = partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99))


@pytest.fixture
def data(toy_split):
    return ClusterDataModule(*toy_split, MEMBERS, batch_size=8, seed=1)


def head_of(seed=0, **more):
    return Head(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)), **more)


def fit(data, loss=None, optimizer=ADAM, epochs=3, head=None, **more):
    history, network = History(), SubNetwork(head or head_of(), loss or ArcFace(16.0, 0.3), optimizer)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=history,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=10**9,
        **more,
    )
    trainer.fit(network, datamodule=data)
    return network, history.records


def samples(data, split):
    return data.embedding_set.embeddings[split.rows], split.labels


def test_logged_values_are_means_over_all_samples(data):
    # Nothing moves at learning rate 0, so the epoch's values can be computed from the samples by scikit-learn.
    network, (record,) = fit(data, NormFace(16.0), partial(torch.optim.SGD, lr=0.0), epochs=1)
    for split, key in ((data.train_split, "train/loss"), (data.val_split, "val/loss")):
        x, y = samples(data, split)
        cosine = normalize(x.astype(np.float64)) @ normalize(network.head.weight_CD.detach().double().numpy()).T
        z = np.exp(16 * cosine)
        expected = log_loss(y, z / z.sum(axis=1, keepdims=True), labels=range(5))
        assert record[key] == pytest.approx(expected, rel=1e-5)
    assert record["val/accuracy_percent"] == pytest.approx(100 * accuracy_score(y, cosine.argmax(axis=1)), rel=1e-6)
    assert record["learning_rate"] == 0 and record["epoch"] == 0


def test_training_is_plain_adam_over_the_batches_of_each_epoch(data):
    network, _ = fit(data, NormFace(16.0), epochs=2)
    weight = head_of().weight_CD.detach().clone().requires_grad_()
    adam, batches = ADAM([weight]), data.train_dataloader()
    for epoch in range(2):
        batches.set_epoch(epoch)
        for x, y, length in batches:
            cosine = torch.nn.functional.normalize(length[:, None] * x) @ torch.nn.functional.normalize(weight).T
            adam.zero_grad()
            torch.nn.functional.cross_entropy(16 * cosine, y).backward()
            adam.step()
    torch.testing.assert_close(network.head.weight_CD.detach(), weight.detach(), rtol=1e-4, atol=1e-5)


def test_the_loss_falls_and_the_classes_are_told_apart(data):
    _, records = fit(data, epochs=15, optimizer=partial(torch.optim.Adam, lr=0.05))
    assert records[-1]["train/loss"] < 0.2 * records[0]["train/loss"]
    assert [record["epoch"] for record in records] == list(range(15)) and records[-1]["val/accuracy_percent"] > 80


def test_the_same_run_twice_ends_in_the_same_weights_and_validation_does_not_matter(data):
    one, _ = fit(data)
    torch.rand(7)
    again, _ = fit(data)
    unvalidated, records = fit(data, limit_val_batches=0)
    assert torch.equal(one.head.weight_CD, again.head.weight_CD)
    assert torch.equal(one.head.weight_CD, unvalidated.head.weight_CD)
    assert "val/loss" not in records[0] and "train/loss" in records[0]


def test_classes_in_chunks_train_as_classes_at_once(data):
    one, _ = fit(data)
    chunked, _ = fit(data, head=head_of(max_logits_bytes=8 * 4 * 2))
    torch.testing.assert_close(one.head.weight_CD, chunked.head.weight_CD, rtol=1e-4, atol=1e-5)


def test_outputs_take_embeddings_of_any_length_and_type():
    network, x = SubNetwork(head_of(), NormFace()), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), network(30 * x))
    torch.testing.assert_close(network(x), network(x.half()), atol=2e-3, rtol=0)
    assert network(x.half()).dtype == torch.float32


def test_a_cluster_without_validation_samples_trains(toy_split, data):
    data.val_split = type(data.val_split)(data.val_split.rows[:0], data.val_split.labels[:0])
    _, records = fit(data, epochs=1, limit_val_batches=0)
    assert np.isfinite(records[0]["train/loss"])
