# SPDX-License-Identifier: MIT
"""Classes spread over two processes (gloo) against one process that has them all.

Axes: B batch, C classes, D embedding dimension.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from datamodules.errors import InputError
from lightning_modules.active_classes import EveryClass
from lightning_modules.active_head import ActiveHead, ActiveRowsOptimizer
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.magface import MagFace
from lightning_modules.losses.uniface import UniFace
from lightning_modules.sharded_head import ShardedHead, shard
from tests.lightning_modules import sharded_ranks as ranks

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks found: one launch for all tests of this file."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, SCRIPT, folder, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return [safetensors.torch.load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("bound", ranks.BOUNDS)
@pytest.mark.parametrize("name", ranks.LOSSES)
def test_value_and_gradients_are_those_of_the_plain_formulation_in_float64(two, name, bound):
    embedding_BD, weight_CD, target_B, weight_B = ranks.problem()
    x, w = embedding_BD.double().requires_grad_(), weight_CD.double().requires_grad_()
    loss = ranks.LOSSES[name]
    loss_B = loss(x @ (F.normalize(w) if loss.unit_rows else w).T, target_B)
    by_x, by_w = torch.autograd.grad((loss_B * weight_B.double()).sum(), (x, w))
    for found in two:
        for key, expected in {"loss": loss_B.detach(), "by_embedding": by_x, "by_weight": by_w}.items():
            scale = float(expected.abs().max())
            difference = (found[f"{name}/{bound}/{key}"].double() - expected).abs().max()
            assert difference < 1e-5 * max(scale, 1), key


@pytest.mark.parametrize("name", ranks.CHOICES)
def test_several_adam_steps_end_where_one_process_ends(two, name):
    _, weight_CD, _, _ = ranks.problem()
    head = ActiveHead(weight_CD, ranks.CHOICES[name], 7)
    losses = ranks.trained(head, ActiveRowsOptimizer(ranks.ADAM(head.parameters()), head), ArcFace(16.0))
    for found in two:
        torch.testing.assert_close(found[f"{name}/losses"], losses, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[f"{name}/rows"], head.rows().detach(), rtol=0, atol=1e-5)
    assert (head.rows() - F.normalize(weight_CD)).abs().max() > 0.02  # they have moved


def test_a_rank_without_an_active_class_takes_part_all_the_same(two):
    """All targets are classes of rank 1, and no other class is active."""
    embedding_BD, weight_CD, *_ = ranks.problem(batch=4)
    x, w = embedding_BD.requires_grad_(), weight_CD[9:].requires_grad_()
    loss_B = ArcFace()(x @ F.normalize(w).T, torch.tensor([0, 1, 1, 0]))
    by_x, by_w = torch.autograd.grad(loss_B.sum(), (x, w))
    for found, rows in zip(two, (0, 2), strict=True):
        torch.testing.assert_close(found["lonely/loss"], loss_B.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["lonely/by_embedding"], by_x, rtol=1e-4, atol=1e-4)
        assert len(found["lonely/by_active"]) == rows
    torch.testing.assert_close(two[1]["lonely/by_active"], by_w, rtol=1e-4, atol=1e-4)


def test_the_best_class_is_found_over_all_ranks_and_they_agree(two):
    embedding_BD, weight_CD, _, _ = ranks.problem()
    for found in two:
        assert torch.equal(found["best"], (embedding_BD @ F.normalize(weight_CD).T).argmax(1))
        assert not found["few"].any()
    assert torch.equal(two[0]["tie"], two[1]["tie"]) and set(two[0]["tie"].tolist()) <= set(range(ranks.CLASSES))


def test_parts_cover_all_classes_once_and_evenly():
    for classes in (1, 2, 7, 100):
        for world in (1, 2, 3, 8):
            parts = [list(range(classes)[shard(classes, rank, world)]) for rank in range(world)]
            assert sum(parts, []) == list(range(classes))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("loss", [UniFace(), MagFace()], ids=lambda loss: type(loss).__name__)
def test_a_loss_that_cannot_be_sharded_is_refused(loss):
    embedding_BD, weight_CD, target_B, _ = ranks.problem()
    with pytest.raises(InputError, match=type(loss).__name__):
        ShardedHead(weight_CD).loss(embedding_BD, target_B, loss)


def test_what_a_shard_cannot_do_is_refused_when_it_is_made():
    class ByRows(EveryClass):
        needs_rows = True

    with pytest.raises(InputError, match="ByRows"):
        ShardedHead(torch.ones(4, 3), ByRows())
    with pytest.raises(InputError, match="2 rows per class"):
        ShardedHead(torch.ones(4, 3), rows_per_class=2)
