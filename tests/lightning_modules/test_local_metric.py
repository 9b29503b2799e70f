# SPDX-License-Identifier: MIT
"""Axes: N samples, C classes, G groups, D dimension, R directions."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from datamodules.class_means import class_means, normalise_rows
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules import local_metric


def draw(classes=12, counts=(1, 2, 5, 9), dim=8, seed=0, spread=0.4):
    """Unit samples around unit centres, uneven in number and in direction: (N, D), (N,), (C, D) class means."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), np.resize(counts, classes))
    centres, shape = normalise_rows(random.standard_normal((classes, dim))), np.linspace(0.2, 2, dim)
    rows = normalise_rows(centres[labels] + spread * shape * random.standard_normal((len(labels), dim)) / np.sqrt(dim))
    every = Split(np.arange(len(labels)), labels.astype(np.int32))
    return rows, labels, class_means(rows, every, classes)


def learn(rows, labels, means, **arguments):
    given = {"directions": 8, "pool": 6, "prior": 4, **arguments}
    samples = TrainingSamples(rows, Split(np.arange(len(rows)), labels.astype(np.int32)))
    return local_metric.learn(torch.from_numpy(means), samples, **given)


def covariances(learned):
    return torch.cat([part for _, part in learned.covariances()])


def by_hand(rows, labels, means, basis, centre, pool, prior):
    """The covariance of one group, class after class, in float64 and not scaled."""
    rows, scatters = rows.astype(np.float64) @ basis, {}
    for c in np.unique(labels):
        own = rows[labels == c]
        if len(own) > 1:
            scatters[c] = (len(own) - 1) * np.cov(own.T)
    freedom = {c: (labels == c).sum() - 1 for c in scatters}
    whole = sum(scatters.values()) / sum(freedom.values())
    total, reached = prior * whole, 0
    for c in sorted(scatters, key=lambda c: -float(means[c] @ centre)):
        if reached >= pool:
            break
        total, reached = total + scatters[c], reached + freedom[c]
    return total / (reached + prior)


@pytest.mark.parametrize(("pool", "prior"), [(1, 0), (6, 4), (20, 1), (1000, 3)])
def test_a_covariance_is_that_of_the_nearest_classes_shrunk_to_the_whole(pool, prior):
    rows, labels, means = draw()
    found = learn(rows, labels, means, pool=pool, prior=prior)
    basis = found.basis_DR.numpy().astype(np.float64)
    for c in range(12):
        expected = by_hand(rows, labels, means, basis, means[c], pool, prior)
        eigenvalues = np.linalg.eigvalsh(expected)
        expected *= eigenvalues.sum() / (eigenvalues**2).sum()
        np.testing.assert_allclose(covariances(found)[c], expected, atol=5e-5)


def test_pooled_over_all_classes_it_is_the_covariance_of_linear_discriminant_analysis():
    rows, labels, means = draw(counts=(6,))
    found = learn(rows, labels, means, pool=10**6)
    # scikit-learn weighs classes by their share, which equal counts make the pooled covariance, and divides by n.
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(rows, labels)
    basis = found.basis_DR.numpy()
    expected = basis.T @ lda.covariance_ @ basis
    scale = found.pooled_RR.numpy().trace() / expected.trace()
    np.testing.assert_allclose(found.pooled_RR, scale * expected, atol=5e-5)
    np.testing.assert_allclose(covariances(found)[3], scale * expected, atol=5e-5)


def test_the_metric_is_an_inverse_and_strength_zero_is_the_plain_distance():
    covariance = covariances(learn(*draw()))
    for strength in (0.0, 0.5, 3.0):
        expected = np.linalg.inv(np.eye(8) + strength * covariance.numpy().astype(np.float64)) - np.eye(8)
        np.testing.assert_allclose(local_metric.metric(covariance, strength), expected, atol=1e-5)
    eigenvalues = torch.linalg.eigvalsh(local_metric.metric(covariance, 5.0))
    assert eigenvalues.min() > -1 and eigenvalues.max() < 1e-6


def test_blocks_of_identities_are_the_whole(monkeypatch):
    found = learn(*draw())
    whole = covariances(found)
    monkeypatch.setattr(local_metric, "BLOCK_ELEMENTS", 5 * 64)
    assert [first for first, _ in found.covariances()] == [0, 5, 10]
    torch.testing.assert_close(covariances(learn(*draw())), whole)


def test_the_length_is_the_root_of_the_mean_cosine_of_two_samples_of_a_class():
    rows, labels, means = draw()
    pairs = [
        float(rows[i].astype(np.float64) @ rows[j])
        for i in range(len(rows)) for j in range(i) if labels[i] == labels[j]
    ]  # fmt: skip
    assert learn(rows, labels, means).length == pytest.approx(np.sqrt(np.mean(pairs)), abs=1e-5)


def test_fewer_directions_are_those_of_largest_variance():
    rows, labels, means = draw(counts=(20,))
    within = rows - np.stack([rows[labels == c].mean(0) for c in range(12)])[labels]
    _, _, right = np.linalg.svd(within.astype(np.float64), full_matrices=False)
    found = learn(rows, labels, means, directions=3)
    np.testing.assert_allclose(found.basis_DR @ found.basis_DR.T, right[:3].T @ right[:3], atol=1e-3)


@pytest.mark.parametrize("counts", [(1,), (1, 1, 2)])
def test_few_samples_give_few_directions(counts):
    rows, labels, means = draw(counts=counts)
    found = learn(rows, labels, means)
    r = int(sum(np.bincount(labels) - 1))
    assert found.basis_DR.shape == (8, r) and covariances(found).shape == (12, r, r)
    assert torch.isfinite(covariances(found)).all() and 0 < found.length <= 1
    if r == 0:
        assert found.length == 1


def test_what_is_given_back_is_a_quadratic_form_and_never_negative():
    metric = local_metric.metric(covariances(learn(*draw())), 2.0)
    generator = torch.Generator().manual_seed(0)
    offset_bTR, identity_bT = torch.randn(5, 4, 8, generator=generator), torch.randint(12, (5, 4), generator=generator)
    expected = -torch.einsum("btr,btrs,bts->bt", offset_bTR, metric[identity_bT], offset_bTR) / 2
    parts = [(0, metric[:5]), (5, metric[5:])]
    torch.testing.assert_close(local_metric.given_back(offset_bTR, identity_bT, parts), expected)
    assert (expected >= 0).all()
    some = local_metric.given_back(offset_bTR, identity_bT, parts[1:])
    torch.testing.assert_close(some, torch.where(identity_bT >= 5, expected, 0.0))
    none = local_metric.given_back(offset_bTR[..., :0], identity_bT, [(0, metric[:, :0, :0])])
    assert torch.equal(none, torch.zeros(5, 4))
    alike = local_metric.given_back_alike(offset_bTR, metric[3])
    torch.testing.assert_close(alike, local_metric.given_back(offset_bTR, torch.full((5, 4), 3), [(0, metric)]))


def test_many_samples_are_thinned_evenly(monkeypatch):
    rows, labels, means = draw(counts=(9,))
    kept = np.concatenate([np.flatnonzero(labels == c)[:5] for c in range(12)])
    expected = learn(rows[kept], labels[kept], means)
    monkeypatch.setattr(local_metric, "LEARN_ROWS", 60)  # 12 identities of 9: five each remain
    torch.testing.assert_close(covariances(learn(rows, labels, means)), covariances(expected))
