# SPDX-License-Identifier: MIT
"""Softmax with center loss: the formula, and what the term does to class rows."""

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.center import CenterSoftmax
from lightning_modules.losses.normface import NormFace


def problem():
    generator = torch.Generator().manual_seed(0)
    embedding_BD = F.normalize(torch.randn(30, 5, generator=generator))
    return embedding_BD, torch.randn(4, 5, generator=generator), torch.arange(30) % 4


def test_the_fused_path_is_softmax_plus_half_the_squared_distance_to_the_row():
    embedding_BD, rows_CD, target_B = problem()
    head = LinearHead(rows_CD)
    found_B = head.loss(embedding_BD, target_B, CenterSoftmax(12.0, 0.7))
    weight_CD = rows_CD.clone().requires_grad_()
    unit_CD = F.normalize(weight_CD)
    distance_B = (embedding_BD - unit_CD[target_B]).pow(2).sum(1)
    expected_B = F.cross_entropy(12 * embedding_BD @ unit_CD.T, target_B, reduction="none") + 0.7 / 2 * distance_B
    torch.testing.assert_close(found_B, expected_B, rtol=1e-5, atol=1e-5)
    (by_ours,) = torch.autograd.grad(found_B.sum(), head.weight_CD)
    (expected,) = torch.autograd.grad(expected_B.sum(), weight_CD)
    torch.testing.assert_close(by_ours, expected, rtol=1e-4, atol=1e-5)


def test_the_general_form_agrees_with_the_fused_one():
    embedding_BD, rows_CD, target_B = problem()
    head, loss = LinearHead(rows_CD), CenterSoftmax()
    torch.testing.assert_close(head.loss(embedding_BD, target_B, loss), loss(head(embedding_BD), target_B))


def test_a_heavy_weight_leads_the_rows_to_the_class_means():
    embedding_BD, rows_CD, target_B = problem()
    head, loss = LinearHead(F.normalize(rows_CD)), CenterSoftmax(1.0, 1000.0)
    optimizer = torch.optim.SGD(head.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(embedding_BD, target_B, loss).mean().backward()
        optimizer.step()
    means_CD = F.normalize(torch.stack([embedding_BD[target_B == c].mean(0) for c in range(4)]))
    assert F.cosine_similarity(head.rows(), means_CD).min() > 0.999


def test_weight_zero_is_normface():
    embedding_BD, rows_CD, target_B = problem()
    head = LinearHead(rows_CD)
    torch.testing.assert_close(
        head.loss(embedding_BD, target_B, CenterSoftmax(20.0, 0.0)), head.loss(embedding_BD, target_B, NormFace(20.0))
    )


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="expected"):
        CenterSoftmax(weight=-1)
