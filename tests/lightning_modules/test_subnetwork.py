# SPDX-License-Identifier: MIT
import math
import resource
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import normalize

from callbacks.checkpoints import EpochCheckpoints, SafetensorsIO, epoch_files, newest_checkpoint
from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.splits import Split
from lightning_modules.baselines.coded import CodeHead
from lightning_modules.fused import Buffers
from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.center import CenterSoftmax
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.softmax import Softmax
from lightning_modules.losses.uniface import UniFace
from lightning_modules.schedulers import linear
from lightning_modules.subnetwork import SubNetwork
from tests.lightning_modules.small_fits import ADAM, fit, head_of, plain_loop, same_weights


def samples(data, split):
    return data.embeddings_ND[split.rows], split.labels


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
        batches.epoch = lambda epoch=epoch: epoch
        for x, y, length, _ in batches:
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


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_resumed_fit_goes_on_counting_its_steps(data, tmp_path, at_once):
    """Weights, moments, history and the number of steps are those of a fit that was never stopped."""
    more = {"scheduler": linear, "at_once": at_once, "plugins": [SafetensorsIO("key")], "enable_checkpointing": True}
    whole, all_records = fit(data, callbacks=[EpochCheckpoints(tmp_path / "job")], **more)
    for file in epoch_files(tmp_path / "job").values():
        if file.name != "job.epoch-0001.safetensors":
            file.unlink()
    newest = newest_checkpoint(tmp_path / "job", "key", 3)
    resumed, records = fit(data, callbacks=[EpochCheckpoints(tmp_path / "job")], resume=newest, **more)
    assert newest.name == "job.epoch-0001.safetensors" and records == all_records and len(records) == 3
    assert resumed.trainer.global_step == whole.trainer.global_step == 3 * -(-len(data.train_split) // 8)
    assert torch.equal(resumed.head.weight_CD, whole.head.weight_CD)
    assert sorted(epoch_files(tmp_path / "job")) == [1, 2]


def test_classes_in_chunks_train_as_classes_at_once(data):
    one, records = fit(data)
    chunked, in_parts = fit(data, head=head_of(max_logits_bytes=8 * 4 * 2))
    torch.testing.assert_close(one.head.weight_CD, chunked.head.weight_CD, rtol=1e-4, atol=1e-5)
    for key in ("val/loss", "val/accuracy_percent"):
        assert in_parts[-1][key] == pytest.approx(records[-1][key], rel=1e-4)


def test_later_steps_write_where_the_first_ones_wrote():
    """A page that the kernel has to clear is a page fault; outputs and gradient of a step have 8,750 pages each.

    glibc keeps none of them: it gives blocks above 32 MiB back at once.
    """
    faults, random = [], np.random.default_rng(0)

    class PageFaults(Callback):
        def on_train_batch_end(self, *_):
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    split = Split(np.arange(640), np.arange(640, dtype=np.int32))
    data = ClusterDataModule(random.standard_normal((640, 128)).astype(np.float32), split, split, batch_size=128)
    head = LinearHead(torch.randn(70000, 128))
    fit(data, head=head, optimizer=partial(torch.optim.SGD, lr=0.1), epochs=1, callbacks=[PageFaults()],
        limit_val_batches=0)  # fmt: skip
    assert len(faults) == 5 and faults[-1] - faults[-2] < 4000


@pytest.mark.parametrize("bound", [8 * 5 * 7, 1])
def test_validation_holds_no_more_outputs_and_exponentials_than_the_bound(data, monkeypatch, bound):
    sizes, judge = [], LinearHead.judge
    monkeypatch.setattr(LinearHead, "judge", lambda self, x, y, loss: sizes.append(len(x)) or judge(self, x, y, loss))
    fit(data, head=head_of(max_logits_bytes=bound), epochs=1)
    assert sum(sizes) == len(data.val_split) and max(sizes) == max(1, bound // (8 * 5))


def test_a_step_in_chunks_of_classes_holds_no_other_matrix_of_all_classes(monkeypatch):
    """The weight and its gradient are C x D; what else is taken is of a chunk."""
    shapes, take = [], Buffers.take
    monkeypatch.setattr(Buffers, "take", lambda self, shape, like: shapes.append(shape) or take(self, shape, like))
    head = LinearHead(torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)), max_logits_bytes=32 * 4 * 100)
    unit_BD = torch.nn.functional.normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(1)))
    head.loss(unit_BD, torch.arange(32), ArcFace()).mean().backward()
    assert [tuple(shape) for shape in shapes if math.prod(shape) > 32 * 100] == [(1000, 16)]


@pytest.mark.parametrize(
    "loss", [ArcFace(), CenterSoftmax(), Softmax(), UniFace()], ids=lambda loss: type(loss).__name__
)
def test_a_head_judges_as_its_loss_and_its_outputs_do(loss):
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(7, 8, generator=generator), unit_rows=loss.unit_rows)
    unit_BD = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator))
    target_B = torch.randint(7, (64,), generator=generator)
    output_BC = head(unit_BD).detach()
    loss_B, hit_B = head.judge(unit_BD, target_B, loss)
    torch.testing.assert_close(loss_B, loss(output_BC, target_B).detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(hit_B, output_BC.argmax(1) == target_B) and 0 < hit_B.sum() < 64


def test_outputs_take_embeddings_of_any_length_and_type():
    network, x = SubNetwork(head_of(), NormFace()), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), network(30 * x))
    torch.testing.assert_close(network(x), network(x.half()), atol=2e-3, rtol=0)
    assert network(x.half()).dtype == torch.float32
    for factor in (1e20, 1e-25):
        torch.testing.assert_close(network(x), network((factor * x.double()).float()))


def test_a_cluster_without_validation_samples_trains(toy_split, data):
    data.val_split = type(data.val_split)(data.val_split.rows[:0], data.val_split.labels[:0])
    _, records = fit(data, epochs=1, limit_val_batches=0)
    assert np.isfinite(records[0]["train/loss"])


def test_a_head_of_two_parameters_is_trained_as_plain_adam_trains_it(data):
    # Clearing the gradient of one parameter alone lets those of the others add up over the whole fit.
    def make():
        return CodeHead(5, 8, 6, "highest", torch.Generator().manual_seed(2))

    network, _ = fit(data, NormFace(4.0), head=make())
    plain_loop(data, head := make(), NormFace(4.0))
    assert len(list(head.parameters())) == 2
    same_weights(network.head, head, rtol=1e-5, atol=1e-6)
