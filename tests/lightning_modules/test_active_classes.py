# SPDX-License-Identifier: MIT
"""Classes that compete in a step: which, with what loss, and what happens to the others.

Axes: B batch, C classes, A active classes, D embedding dimension.
"""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.active_classes import EveryClass, SampledClasses
from lightning_modules.active_head import ActiveHead, ActiveRowsOptimizer
from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.sub_center_arcface import SubCenterArcFace

OPTIMIZERS = [
    partial(torch.optim.Adam, lr=0.01, betas=(0.9, 0.99)),
    partial(torch.optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.1, fused=True),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    partial(torch.optim.Adagrad, lr=0.05, initial_accumulator_value=0.1),
]


def problem(batch=12, classes=40, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight_CD = torch.randn(classes, dim, generator=generator)
    target_B = torch.randint(classes // 4, (batch,), generator=generator)
    return F.normalize(torch.randn(batch, dim, generator=generator)), weight_CD, target_B


def choose(rate, target_B, classes=40, seed=0):
    nothing = torch.empty(0)
    return SampledClasses(rate).choose(classes, target_B, nothing, nothing, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rate", "expected"), [(0.5, 20), (0.21, 8), (0.999, 39), (0.1, 6), (0.0, 6)])
def test_the_classes_of_the_batch_are_kept_and_the_rest_is_filled_up(rate, expected):
    target_B = torch.tensor([5, 3, 5, 39, 0, 7, 8])  # six classes, more than a tenth of 40
    active_A = choose(rate, target_B)
    assert len(active_A) == expected and set(target_B.tolist()) <= set(active_A.tolist())
    assert (active_A.diff() > 0).all() and active_A.max() < 40


def test_the_others_are_drawn_evenly_and_anew_for_each_seed():
    target_B = torch.tensor([1, 2])
    count_C = torch.zeros(40)
    for seed in range(2000):
        count_C[choose(0.25, target_B, seed=seed)] += 1
    others_C = torch.cat([count_C[:1], count_C[3:]])
    # 8 of 38 in each draw: binomial with mean 421 and standard deviation 18.2
    assert count_C[1] == count_C[2] == 2000 and (others_C - 2000 * 8 / 38).abs().max() < 5 * 18.2
    assert torch.equal(choose(0.25, target_B, seed=7), choose(0.25, target_B, seed=7))


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="sample_rate"):
        SampledClasses(rate)


@pytest.mark.parametrize("loss", [ArcFace(16.0), NormFace(8.0), SubCenterArcFace(16.0)], ids=lambda x: type(x).__name__)
def test_loss_and_gradient_are_those_of_a_softmax_in_which_the_others_are_absent(loss):
    embedding_BD, weight_CD, target_B = problem()
    rows_SD = weight_CD.repeat_interleave(loss.rows_per_class, 0)
    rows_SD = rows_SD + 0.1 * torch.randn(rows_SD.shape, generator=torch.Generator().manual_seed(1))
    head = ActiveHead(rows_SD, SampledClasses(0.5), seed=3, rows_per_class=loss.rows_per_class)
    loss_B = head.loss(embedding_BD, target_B, loss)
    loss_B.sum().backward()
    index, part = head.chosen
    absent_C = torch.ones(40, dtype=torch.bool)
    absent_C[index // loss.rows_per_class] = False
    assert absent_C.sum() == 20 and head.weight_CD.grad is None

    full = rows_SD.double().requires_grad_()
    cosine_BS = embedding_BD.double() @ F.normalize(full).T
    cosine_BC = cosine_BS.unflatten(1, (40, -1)).amax(2).masked_fill(absent_C, -1e9)
    expected_B = loss(cosine_BC, target_B)
    expected_B.sum().backward()
    torch.testing.assert_close(loss_B.double(), expected_B, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part.grad.double(), full.grad[index], rtol=1e-3, atol=1e-4)


def steps(head, optimizer, count=6):
    embedding_BD, _, target_B = problem()
    for step in range(count):
        head.step = (0, step)
        optimizer.zero_grad()
        head.loss(embedding_BD, target_B, ArcFace(16.0)).mean().backward()
        optimizer.step()
    return head.weight_CD.detach().clone()


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda x: x.func.__name__)
def test_where_all_take_part_each_step_the_optimizer_is_the_ordinary_one(make):
    _, weight_CD, _ = problem()
    plain = LinearHead(weight_CD)
    expected = steps(plain, make(plain.parameters()))
    for active in (EveryClass(), SampledClasses(1.0), AllByNumber()):
        head = ActiveHead(weight_CD, active)
        torch.testing.assert_close(steps(head, ActiveRowsOptimizer(make(head.parameters()), head)), expected)


class AllByNumber(EveryClass):
    """All classes, but as numbers: the way of the rows through the copy is taken."""

    def choose(self, classes, *_):
        return torch.arange(classes)


class ByTurns(EveryClass):
    """The targets' quarter of the classes and, in odd steps, the last quarter."""

    turn = 0

    def choose(self, classes, *_):
        self.turn += 1
        return torch.arange(classes)[: classes // 4] if self.turn % 2 else torch.cat(
            [torch.arange(classes // 4), torch.arange(3 * classes // 4, classes)]
        )  # fmt: skip


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda x: x.func.__name__)
def test_rows_that_do_not_take_part_keep_weight_and_state(make):
    _, weight_CD, _ = problem()
    head = ActiveHead(weight_CD, ByTurns())
    optimizer = ActiveRowsOptimizer(make(head.parameters()), head)
    before = steps(head, optimizer, 2)
    state = {k: v.clone() for k, v in optimizer.state[head.weight_CD].items() if torch.is_tensor(v) and v.ndim == 2}
    assert torch.equal(before[10:30], weight_CD[10:30]) and not torch.equal(before[30:], weight_CD[30:])
    after = steps(head, optimizer, 1)  # a turn without the last quarter
    assert torch.equal(after[10:], before[10:]) and not torch.equal(after[:10], before[:10])
    for name, value in state.items():
        now = optimizer.state[head.weight_CD][name]
        assert now.shape == weight_CD.shape and torch.equal(now[10:], value[10:])
    assert optimizer.param_groups[0]["params"] == [head.weight_CD]


def test_one_step_is_the_sparse_step_of_torch():
    """torch.optim.SparseAdam moves the rows of a sparse gradient, and the moments of these alone."""
    _, weight_CD, _ = problem()
    settings = {"lr": 0.01, "betas": (0.9, 0.99)}
    head = ActiveHead(weight_CD, SampledClasses(0.5), seed=5)
    found = steps(head, ActiveRowsOptimizer(torch.optim.Adam(head.parameters(), **settings), head))

    other, embedding_BD, target_B = ActiveHead(weight_CD, SampledClasses(0.5), seed=5), *problem()[::2]
    weight = weight_CD.clone().requires_grad_()
    sparse = torch.optim.SparseAdam([weight], **settings)
    for step in range(6):
        other.step = (0, step)
        active_A = other.choose(embedding_BD, target_B)
        rows_AD = weight.detach()[active_A].requires_grad_()
        cosine_BA = embedding_BD @ F.normalize(rows_AD).T
        loss_B = ArcFace(16.0)(cosine_BA, torch.searchsorted(active_A, target_B))
        (gradient_AD,) = torch.autograd.grad(loss_B.mean(), rows_AD)
        weight.grad = torch.sparse_coo_tensor(active_A[None], gradient_AD, weight.shape)
        sparse.step()
    torch.testing.assert_close(found, weight.detach(), rtol=1e-4, atol=1e-5)


def test_state_goes_to_disk_and_back_in_the_form_of_the_inner_optimizer():
    _, weight_CD, _ = problem()
    make = OPTIMIZERS[0]
    heads = [ActiveHead(weight_CD, SampledClasses(0.5), seed=5) for _ in range(2)]
    one, other = (ActiveRowsOptimizer(make(head.parameters()), head) for head in heads)
    steps(heads[0], one, 3)
    content = copy.deepcopy(one.state_dict())  # torch loads by reference
    assert content["state"][0]["exp_avg"].shape == weight_CD.shape
    heads[1].load_state_dict(heads[0].state_dict())
    other.load_state_dict(content)
    assert torch.equal(steps(heads[0], one, 2), steps(heads[1], other, 2))
