# SPDX-License-Identifier: MIT
"""Active classes: the full softmax where all are active, brute force where they are not."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from lightning_modules.baselines.base import Infeasible
from lightning_modules.baselines.hf_softmax import ActiveClassHead, HFSoftmax, build_index
from lightning_modules.heads.linear import LinearHead
from lightning_modules.losses.arcface import ArcFace
from lightning_modules.losses.normface import NormFace
from lightning_modules.losses.sub_center_arcface import SubCenterArcFace
from lightning_modules.losses.uniface import UniFace


def head(rows, negatives, seed=0, rebuild=100):
    return ActiveClassHead(rows, negatives, rebuild, torch.Generator().manual_seed(seed))


def problem(classes=40, dim=10, batch=6):
    generator = torch.Generator().manual_seed(1)
    rows, x = torch.randn(classes, dim, generator=generator), torch.randn(batch, dim, generator=generator)
    return rows, F.normalize(x), torch.randint(classes, (batch,), generator=generator)


@pytest.mark.parametrize("loss", [ArcFace(), NormFace(), UniFace()], ids=lambda loss: type(loss).__name__)
def test_with_every_class_active_loss_and_gradient_are_those_of_the_full_head(loss):
    rows, x, target = problem()
    ours, full = head(rows, 40), LinearHead(rows)
    for one in (ours, full):
        one.loss(x, target, loss).mean().backward()
    torch.testing.assert_close(ours.weight_CD.grad, full.weight_CD.grad, rtol=1e-4, atol=1e-6)


def test_active_classes_are_the_batch_s_and_its_nearest_rows():
    rows, x, target = problem()
    one = head(rows, negatives=6)  # two neighbours a sample
    one.index = build_index(F.normalize(rows).numpy())
    active = set(one.active(x, target).tolist())
    assert set(target.tolist()) <= active and len(active) == len(set(target.tolist())) + 6
    _, near = NearestNeighbors(n_neighbors=3, metric="cosine").fit(rows.numpy()).kneighbors(x.numpy())
    found = set(near.flatten().tolist()) - set(target.tolist())
    # More candidates than places: all places go to neighbours.
    assert len(found) >= 6 and active - set(target.tolist()) <= found


def test_places_that_neighbours_leave_go_to_random_classes():
    rows, x, target = problem()
    one = head(rows, negatives=30)
    one.index = build_index(F.normalize(rows[:8]).numpy())
    active = one.active(x, target)
    assert (
        len(active) == len(target.unique()) + 30 and (active.diff() > 0).all() and set(range(8)) <= set(active.tolist())
    )


def test_the_loss_of_a_step_is_the_softmax_over_its_active_classes():
    rows, x, target = problem()
    one, twin = head(rows, 5, seed=3), head(rows, 5, seed=3)
    twin.index = build_index(F.normalize(rows).numpy())
    active = twin.active(x, target).tolist()
    cosine = F.cosine_similarity(x[:, None], rows[active][None], dim=2)
    place = torch.tensor([active.index(t) for t in target.tolist()])
    torch.testing.assert_close(
        one.loss(x, target, NormFace(30.0)), F.cross_entropy(30 * cosine, place, reduction="none")
    )


def test_rows_that_are_not_active_get_no_gradient():
    rows, x, target = problem()
    one = head(rows, 5)
    one.loss(x, target, ArcFace()).sum().backward()
    touched = one.weight_CD.grad.abs().sum(1) > 0
    assert int(touched.sum()) <= len(target.unique()) + 5 and touched[target].all()


def test_the_index_is_built_anew_every_few_steps(monkeypatch):
    built = []
    monkeypatch.setattr(
        "lightning_modules.baselines.hf_softmax.build_index", lambda r: built.append(1) or build_index(r)
    )
    rows, x, target = problem()
    one = head(rows, 5, rebuild=3)
    for _ in range(7):
        one.loss(x, target, ArcFace())
    assert len(built) == 3


def test_most_of_the_graph_s_neighbours_are_the_true_ones():
    rows = F.normalize(torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)))
    _, found = build_index(rows.numpy()).search(rows[:200].numpy(), 10)
    _, true = NearestNeighbors(n_neighbors=10, metric="cosine").fit(rows.numpy()).kneighbors(rows[:200].numpy())
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found, true, strict=True)]) > 9


def test_it_learns_and_refuses_losses_with_several_rows(task):
    made = task(epochs=10)
    predictor = HFSoftmax(0.3, 5).fit(made)
    assert predictor.parameters == 30 * 12
    with pytest.raises(Infeasible, match="SubCenterArcFace"):
        HFSoftmax().fit(task(loss=SubCenterArcFace()))
