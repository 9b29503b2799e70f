# SPDX-License-Identifier: MIT
"""L-Softmax against its formula with row lengths, and against pytorch-metric-learning."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.a_softmax import ASoftmax
from lightning_modules.losses.l_softmax import LSoftmax
from lightning_modules.losses.softmax import Softmax


def problem(classes=6, batch=20, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    embedding_BD = F.normalize(torch.randn(batch, dim, generator=generator, dtype=dtype))
    rows_CD = 3 * torch.randn(classes, dim, generator=generator, dtype=dtype)
    return embedding_BD, rows_CD, torch.arange(batch) % classes


@pytest.mark.parametrize("m, annealing", [(4, 0.0), (2, 0.0), (4, 5.0)])
def test_the_loss_is_the_formula_of_the_paper_sample_by_sample(cross_entropy, m, annealing):
    embedding_BD, rows_CD, target_B = problem()
    lengths = rows_CD.norm(dim=1)
    loss_B = LSoftmax(m, annealing).for_lengths(torch.ones(20), lengths)(embedding_BD @ rows_CD.T, target_B)
    for b in range(20):
        logits = (rows_CD @ embedding_BD[b]).tolist()
        y, length = int(target_B[b]), float(lengths[target_B[b]])
        theta = math.acos(logits[y] / length)
        k = min(int(theta // (math.pi / m)), m - 1)
        psi = (-1) ** k * math.cos(m * theta) - 2 * k
        logits[y] = (annealing * logits[y] + length * psi) / (1 + annealing)
        assert loss_B[b].item() == pytest.approx(cross_entropy(logits, y), rel=1e-9)


def test_the_gradient_by_the_rows_goes_through_angle_and_length():
    embedding_BD, rows_CD, target_B = problem()

    def of_rows(rows):
        return LSoftmax(4, 1.0).for_lengths(torch.ones(20), rows.norm(dim=1))(embedding_BD @ rows.T, target_B).sum()

    rows_CD.requires_grad_()
    assert torch.autograd.gradcheck(of_rows, rows_CD)


def test_head_and_loss_agree_with_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embedding_BD, rows_CD, target_B = problem(dtype=torch.float32)
    theirs = losses.LargeMarginSoftmaxLoss(num_classes=6, embedding_size=5, margin=4, scale=1)
    with torch.no_grad():
        theirs.W.copy_(rows_CD.T)
    head, ours = LinearHead(rows_CD, unit_rows=False), LSoftmax(4, 0.0)
    bound = ours.for_lengths(embedding_BD.norm(dim=1), head.weight_CD.norm(dim=1))
    found, expected = head.loss(embedding_BD, target_B, bound).mean(), theirs(embedding_BD, target_B)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (by_ours,) = torch.autograd.grad(found, head.weight_CD)
    (by_theirs,) = torch.autograd.grad(expected, theirs.W)
    torch.testing.assert_close(by_ours, by_theirs.T, rtol=1e-3, atol=1e-4)


def test_margin_one_is_softmax_and_unit_rows_are_a_softmax_of_scale_one():
    embedding_BD, rows_CD, target_B = problem()
    output_BC = embedding_BD @ rows_CD.T
    bound = LSoftmax(1, 0.0).for_lengths(torch.ones(20), rows_CD.norm(dim=1))
    torch.testing.assert_close(bound(output_BC, target_B), Softmax()(output_BC, target_B), rtol=0, atol=1e-5)
    cosine_BC = embedding_BD @ F.normalize(rows_CD).T
    torch.testing.assert_close(LSoftmax(3, 2.0)(cosine_BC, target_B), ASoftmax(1.0, 3, 2.0)(cosine_BC, target_B))


@pytest.mark.parametrize("make", [LSoftmax, Softmax])
@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_the_scale_lets_unit_vectors_reach_99_percent_and_not_much_more(samples, make, classes):
    loss = make().fit(samples([1.0] * classes, range(classes)))
    # The best that C unit rows can be: cosine 1 with the true class, -1 / (C - 1) with each other.
    best_1C = torch.full((1, classes), -1 / max(classes - 1, 1))
    best_1C[0, 0] = 1.0
    likely = math.exp(-float(Softmax(loss.scale)(best_1C, torch.tensor([0]))))
    assert likely == pytest.approx(1.0 if classes == 1 else 0.99, abs=1e-4)
    assert make(scale=5.0).fit(samples([1.0], [0])).scale == 5


def test_a_scale_is_a_factor_of_rows_and_their_lengths():
    embedding_BD, rows_CD, target_B = problem()
    one = LSoftmax(4, 1.0, 3.0).for_lengths(torch.ones(20), rows_CD.norm(dim=1))(embedding_BD @ rows_CD.T, target_B)
    other = LSoftmax(4, 1.0, 1.0).for_lengths(torch.ones(20), 3 * rows_CD.norm(dim=1))
    torch.testing.assert_close(one, other(3 * embedding_BD @ rows_CD.T, target_B))


def test_the_loss_is_not_changed_by_binding_it():
    loss = LSoftmax()
    cosine_BC, target_B = torch.tensor([[0.5, 0.1]]), torch.tensor([0])
    before = loss(cosine_BC, target_B)
    loss.for_lengths(torch.ones(1), torch.tensor([7.0, 3.0]))
    assert torch.equal(loss(cosine_BC, target_B), before)


@pytest.mark.parametrize("arguments", [{"margin": 0.5}, {"annealing": -1}, {"scale": 0}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        LSoftmax(**arguments)
