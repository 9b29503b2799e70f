# SPDX-License-Identifier: MIT
"""What every loss, partitioner, initialiser and choice of classes must hold, found by the files in experiments/configs.

A new file is under test at once: pytest -k its_name. Axes: B batch, C classes, K identities, M clusters, D dimension.
"""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.heads.linear import LinearHead
from tests.contracts import build, each

# Losses ---------------------------------------------------------------------------------------------------------------

COSINES_BC = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))


def random_cosines(batch=12, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(batch, classes).uniform_(-1, 1, generator=generator), torch.arange(batch) % classes


@each("loss")
@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_loss_is_finite_at_the_ends_and_in_the_middle(name, target):
    cosine_BC = COSINES_BC.clone().requires_grad_()
    loss_B = build("loss", name)(cosine_BC, torch.full((27,), target))
    (gradient,) = torch.autograd.grad(loss_B.sum(), cosine_BC)
    assert loss_B.shape == (27,) and loss_B.dtype == torch.float32
    assert torch.isfinite(loss_B).all() and torch.isfinite(gradient).all()


@each("loss")
def test_a_loss_takes_bfloat16_and_answers_in_float32(name):
    loss, (cosine_BC, target_B) = build("loss", name), random_cosines()
    rough = cosine_BC.bfloat16()
    torch.testing.assert_close(loss(rough, target_B), loss(rough.float(), target_B))
    ends = COSINES_BC.bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(ends, torch.zeros(27, dtype=torch.long)).sum(), ends)
    assert loss(rough, target_B).dtype == torch.float32 and torch.isfinite(gradient).all()


@each("loss")
def test_a_loss_changes_no_input_and_needs_no_gradient(name):
    loss, (cosine_BC, target_B) = build("loss", name), random_cosines()
    before = cosine_BC.clone(), target_B.clone()
    with torch.no_grad():
        without = loss(cosine_BC, target_B)
    with_gradient = loss(cosine_BC.clone().requires_grad_(), target_B)
    assert torch.equal(cosine_BC, before[0]) and torch.equal(target_B, before[1])
    torch.testing.assert_close(without, with_gradient.detach())


@each("loss")
def test_a_loss_is_per_sample_and_does_not_know_the_numbers_of_classes(name):
    loss, (cosine_BC, target_B) = build("loss", name), random_cosines()
    expected = loss(cosine_BC, target_B)
    generator = torch.Generator().manual_seed(1)
    samples, classes = torch.randperm(12, generator=generator), torch.randperm(5, generator=generator)
    torch.testing.assert_close(loss(cosine_BC[samples], target_B[samples]), expected[samples])
    torch.testing.assert_close(loss(cosine_BC[:1], target_B[:1]), expected[:1])
    torch.testing.assert_close(loss(cosine_BC[:, classes], torch.argsort(classes)[target_B]), expected)


@each("loss")
def test_a_loss_holds_no_class_rows(name):
    """It may hold single numbers, such as a bias or a scale."""
    assert [value.shape for value in build("loss", name).parameters() if value.ndim] == []


@each("loss")
def test_a_head_learns_a_toy_under_the_loss_in_20_steps(name):
    loss, generator = build("loss", name), torch.Generator().manual_seed(0)
    target_B = torch.arange(60) % 3
    angle_B = target_B * 2.1 + 0.2 * torch.randn(60, generator=generator)
    embedding_BD = torch.stack([angle_B.cos(), angle_B.sin()], 1)
    head = LinearHead(torch.randn(3, 2, generator=generator), unit_rows=loss.unit_rows)
    adam, losses = torch.optim.Adam(head.parameters(), lr=0.1), []
    for _ in range(20):
        adam.zero_grad()
        loss_B = head.loss(embedding_BD, target_B, loss)
        loss_B.mean().backward()
        adam.step()
        losses.append(loss_B.detach().mean().item())
    assert losses[-1] < 0.9 * losses[0] and np.isfinite(losses).all()


@each("loss")
def test_a_correct_sample_costs_less_than_a_wrong_one(name):
    right, wrong = build("loss", name)(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 0])).tolist()
    assert right < wrong


# Initialisers ---------------------------------------------------------------------------------------------------------


@each("init")
@pytest.mark.parametrize("classes", [1, 7])
def test_an_initialiser_gives_a_row_per_class_and_repeats_itself(name, classes):
    init = build("init", name)
    means = F.normalize(torch.randn(classes, 6, generator=torch.Generator().manual_seed(0)))
    before = means.clone()
    one, again = (init.rows(means, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == (classes, 6) and one.dtype == torch.float32 and torch.isfinite(one).all()
    assert torch.equal(one, again) and torch.equal(means, before)
    assert (one.norm(dim=1) > 0).all() and one.data_ptr() != means.data_ptr()


@each("init")
@pytest.mark.parametrize("samples", [1, 3])
def test_an_initialiser_that_has_seen_samples_gives_rows_too_and_the_first_stays_as_it_was(name, samples):
    init, random = build("init", name), np.random.default_rng(0)
    means = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
    labels = np.repeat(np.arange(5, dtype=np.int32), samples)
    embeddings = means.numpy()[labels] + 0.1 * random.standard_normal((len(labels), 6), dtype=np.float32)
    unseen = init.rows(means, torch.Generator().manual_seed(3))
    fitted = init.fit(TrainingSamples(embeddings, Split(np.arange(len(labels)), labels)))
    rows = fitted.rows(means, torch.Generator().manual_seed(3))
    assert type(fitted) is type(init) and rows.shape == (5, 6) and rows.dtype == torch.float32
    assert torch.isfinite(rows).all() and (rows.norm(dim=1) > 0).all()
    assert torch.equal(init.rows(means, torch.Generator().manual_seed(3)), unseen)


# Partitioners ---------------------------------------------------------------------------------------------------------


def samples_of(points):
    """Each class mean as the only sample of its identity."""
    every = np.arange(len(points))
    return TrainingSamples(np.ascontiguousarray(points), Split(every, every.astype(np.int32)))


def points_of(kind):
    random = np.random.default_rng(0)
    if kind == "random":
        return normalise_rows(random.standard_normal((24, 6)))
    if kind == "two distinct":
        return np.repeat(np.eye(2, 6, dtype=np.float32), 12, axis=0)
    return np.tile(np.eye(1, 6, dtype=np.float32), (24, 1))


@each("partitioner")
@pytest.mark.parametrize("kind", ["random", "two distinct", "all alike"])
@pytest.mark.parametrize("m", [1, 2, 5, 23, 24])
def test_a_partition_has_m_clusters_none_empty_and_each_identity_a_home(name, kind, m, caplog):
    points = points_of(kind)
    before = points.copy()
    partition = build("partitioner", name).fit(points, m, 1, samples_of(points))
    assert partition.n_clusters == (1 if name == "single" else m)
    assert partition.cluster_of.shape == (24,) and set(partition.cluster_of) == set(range(partition.n_clusters))
    assert partition.sizes().min() >= 1 and np.array_equal(points, before)
    assert all(k in partition.members(c) for k, c in enumerate(partition.cluster_of))
    for c in range(partition.n_clusters):
        assert (np.diff(partition.members(c)) > 0).all()


@each("partitioner")
def test_the_same_seed_gives_the_same_partition_whatever_happened_before(name):
    points, partitioner = points_of("random"), build("partitioner", name)
    one = partitioner.fit(points, 4, 1, samples_of(points))
    np.random.seed(5)  # noqa: NPY002 the global states must not matter
    torch.manual_seed(5)
    partitioner.fit(points[::-1].copy(), 3, 2, samples_of(points[::-1]))
    assert (
        partitioner.fit(points, 4, 1, samples_of(points)).hash()
        == one.hash()
        == build("partitioner", name).fit(points, 4, 1, samples_of(points)).hash()
    )


@each("partitioner")
def test_a_partitioner_is_a_clusterer_of_scikit_learn(name):
    points, partitioner = points_of("random"), build("partitioner", name)
    stated = partitioner.get_params()
    twin = clone(partitioner)
    assert twin is not partitioner and twin.get_params() == stated and repr(twin) == repr(partitioner)
    found = twin.fit_predict(points, m=4, samples=samples_of(points))
    assert np.array_equal(found, partitioner.fit(points, 4, samples=samples_of(points)).cluster_of)
    assert np.array_equal(twin.labels_, found) and twin.get_params() == stated and not hasattr(clone(twin), "labels_")
    if not partitioner.needs_samples:  # as the last step of a pipeline, by the rule for the number of clusters
        home = make_pipeline(Normalizer(), clone(partitioner)).fit_predict(points)
        assert len(set(home)) == (1 if name == "single" else 2)


@each("partitioner")
def test_a_partition_comes_back_from_disk_with_what_is_to_be_known_about_it(name, tmp_path):
    points = points_of("random")
    partition = build("partitioner", name).fit(points, 4, 1, samples_of(points))
    partition.save(tmp_path / "partition")
    loaded = Partition.load(tmp_path / "partition")
    assert loaded.hash() == partition.hash() and np.array_equal(loaded.cluster_of, partition.cluster_of)
    assert loaded.provenance == json.loads(json.dumps(partition.provenance))
    assert {"partitioner", "arguments", "seed", "class_means_hash"} <= set(loaded.provenance)
    assert str(partition.n_clusters) in partition.describe() and str(partition.sizes().max()) in partition.describe()


# Active classes -------------------------------------------------------------------------------------------------------


@each("active_classes")
@pytest.mark.parametrize("classes", [1, 5, 200])
def test_a_choice_of_classes_has_those_of_the_batch_each_once_in_order_and_repeats_itself(name, classes):
    target_B = torch.arange(12) % classes
    rows_CD = F.normalize(torch.randn(classes, 6, generator=torch.Generator().manual_seed(0)))
    before = target_B.clone(), rows_CD.clone()
    chosen = [
        build("active_classes", name).choose(
            classes, target_B, rows_CD[target_B], rows_CD, torch.Generator().manual_seed(3)
        )
        for _ in range(2)
    ]
    assert torch.equal(target_B, before[0]) and torch.equal(rows_CD, before[1])
    if chosen[0] is None:
        assert chosen[1] is None
        return
    active_A = chosen[0]
    assert torch.equal(active_A, chosen[1]) and active_A.dtype == torch.int64
    assert set(target_B.tolist()) <= set(active_A.tolist()) <= set(range(classes))
    assert (active_A.diff() > 0).all()
