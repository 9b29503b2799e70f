# SPDX-License-Identifier: MIT
"""Sub-center ArcFace: head, loss and scores against pytorch-metric-learning and brute force."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.partitioners.base import Partition
from lightning_modules.heads.linear import LinearHead
from lightning_modules.initialisers import PrototypeInit, RandomInit, starting_rows
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.sub_center_arcface import SubCenterArcFace
from lightning_modules.scores import Heads, ProbeScores


def problem(classes=5, sub_centers=3, batch=24, dim=6):
    generator = torch.Generator().manual_seed(3)
    embedding_BD = F.normalize(torch.randn(batch, dim, generator=generator))
    return embedding_BD, torch.randn(classes * sub_centers, dim, generator=generator), torch.arange(batch) % classes


def test_head_and_loss_agree_with_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embedding_BD, rows_SD, target_B = problem()
    theirs = losses.SubCenterArcFaceLoss(
        num_classes=5, embedding_size=6, margin=28.64788975654116, scale=16, sub_centers=3
    )
    with torch.no_grad():
        theirs.W.copy_(rows_SD.T)
    ours = SubCenterArcFace(16.0, 0.5, sub_centers=3)
    head = LinearHead(rows_SD, rows_per_class=ours.rows_per_class)
    found, expected = head.loss(embedding_BD, target_B, ours).mean(), theirs(embedding_BD, target_B)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (by_ours,) = torch.autograd.grad(found, head.weight_CD)
    (by_theirs,) = torch.autograd.grad(expected, theirs.W)
    torch.testing.assert_close(by_ours, by_theirs.T, rtol=1e-3, atol=1e-4)


def test_one_sub_centre_is_arcface_on_the_fused_path():
    embedding_BD, rows_CD, target_B = problem(sub_centers=1)
    ours, plain = SubCenterArcFace(sub_centers=1), ArcFace()
    head = LinearHead(rows_CD, rows_per_class=ours.rows_per_class)
    assert torch.equal(head.loss(embedding_BD, target_B, ours), head.loss(embedding_BD, target_B, plain))


def test_only_the_closest_row_of_a_class_gets_the_gradient_of_a_sample():
    embedding_BD, rows_SD, _ = problem(batch=1)
    head = LinearHead(rows_SD, rows_per_class=3)
    (gradient_SD,) = torch.autograd.grad(
        head.loss(embedding_BD, torch.tensor([2]), SubCenterArcFace(8.0)).sum(), head.weight_CD
    )
    closest = F.cosine_similarity(embedding_BD, rows_SD).view(5, 3).argmax(1)
    touched = gradient_SD.abs().sum(1).view(5, 3) > 0
    assert torch.equal(touched, F.one_hot(closest, 3).bool())


@pytest.mark.parametrize("init", [PrototypeInit(), RandomInit()])
def test_rows_of_a_class_start_apart_and_the_first_as_the_initialiser_says(init):
    means_CD = F.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    rows_CRD = starting_rows(init, means_CD, torch.Generator().manual_seed(1), 3).view(4, 3, 32)
    assert torch.equal(rows_CRD[:, 0], init.rows(means_CD, torch.Generator().manual_seed(1)))
    distance = torch.cdist(rows_CRD, rows_CRD) + 9 * torch.eye(3)
    assert distance.min() > 0.05
    again = starting_rows(init, means_CD, torch.Generator().manual_seed(1), 1)
    assert torch.equal(again, init.rows(means_CD, torch.Generator().manual_seed(1)))


def test_scores_of_several_rows_per_class_are_the_best_row_of_each_class():
    random = np.random.default_rng(0)
    partition = Partition(np.array([0, 1, 0, 1, 1]), 2)
    rows = [torch.from_numpy(random.standard_normal((3 * size, 4)).astype(np.float32)) for size in partition.sizes()]
    means_KD = F.normalize(torch.from_numpy(random.standard_normal((5, 4)).astype(np.float32)))
    probes_BD = F.normalize(torch.from_numpy(random.standard_normal((9, 4)).astype(np.float32)))
    scores = ProbeScores(probes_BD, means_KD, partition, Heads.pack(partition, rows))
    output_BM, identity_BM = scores.head_best
    log_odds_BM = scores.head_log_odds(5.0)
    for b in range(9):
        for cluster in range(2):
            of_class = [max(float(probes_BD[b] @ row) for row in three) for three in rows[cluster].view(-1, 3, 4)]
            assert float(output_BM[b, cluster]) == pytest.approx(max(of_class), abs=1e-5)
            assert int(identity_BM[b, cluster]) == partition.members(cluster)[int(np.argmax(of_class))]
            p = np.exp(5 * np.array(of_class)) / np.exp(5 * np.array(of_class)).sum()
            assert float(log_odds_BM[b, cluster]) == pytest.approx(np.log(p.max() / (1 - p.max())), abs=1e-4)


def test_less_than_one_sub_centre_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SubCenterArcFace(sub_centers=0)
