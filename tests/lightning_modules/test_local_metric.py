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


def covariance(learned, identity):
    return learned.covariances(torch.tensor([identity]))[0]


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
    return torch.stack([covariance(learned, identity) for identity in range(len(learned.near_Kj))])


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
        np.testing.assert_allclose(covariances(found)[c], expected, atol=2e-3)  # of halves


def test_pooled_over_all_classes_it_is_the_covariance_of_linear_discriminant_analysis():
    rows, labels, means = draw(counts=(6,))
    found = learn(rows, labels, means, pool=10**6)
    # scikit-learn weighs classes by their share, which equal counts make the pooled covariance, and divides by n.
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(rows, labels)
    basis = found.basis_DR.numpy()
    expected = basis.T @ lda.covariance_ @ basis
    expected *= expected.trace() / (expected**2).sum()
    np.testing.assert_allclose(local_metric.scaled(found.whole_RR), expected, atol=5e-4)
    np.testing.assert_allclose(covariances(found)[3], expected, atol=2e-3)


def test_the_length_is_the_root_of_the_mean_cosine_of_two_samples_of_a_class():
    rows, labels, means = draw()
    pairs = [
        float(rows[i].astype(np.float64) @ rows[j])
        for i in range(len(rows)) for j in range(i) if labels[i] == labels[j]
    ]  # fmt: skip
    assert learn(rows, labels, means).length == pytest.approx(np.sqrt(np.mean(pairs)), abs=1e-5)


def test_blocks_of_identities_give_the_same_as_all_at_once(monkeypatch):
    given = draw()
    whole = learn(*given)
    monkeypatch.setattr(local_metric, "SAMPLE_ELEMENTS", 5 * 16 * 8)  # five of the twelve identities at a time
    found = learn(*given)
    np.testing.assert_allclose(found.mean_length_K, whole.mean_length_K, atol=1e-6)
    np.testing.assert_allclose(covariances(found).diagonal(dim1=1, dim2=2).sum(1),
                               covariances(whole).diagonal(dim1=1, dim2=2).sum(1), rtol=1e-3)  # fmt: skip
    back = [(one.centred_NR.float() @ one.basis_DR.T) for one in (found, whole)]  # the same in any basis
    np.testing.assert_allclose(*back, atol=2e-3)
    assert found.length == pytest.approx(whole.length, abs=1e-6) and torch.equal(found.near_Kj, whole.near_Kj)


def test_neighbours_of_very_many_are_nearly_all_found(monkeypatch):
    rows, labels, means = draw(classes=600, counts=(3,), dim=16)
    exact = learn(rows, labels, means, pool=20).near_Kj
    monkeypatch.setattr(local_metric, "EXACT_PRODUCTS", 600 * 600 - 1)
    found = learn(rows, labels, means, pool=20).near_Kj
    same = [len(set(a) & set(b)) / len(a) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert found.shape == exact.shape == (600, 10) and 0.8 <= np.mean(same) < 1
    assert torch.equal(found[:, 0], torch.arange(600))


def test_fewer_directions_are_those_of_largest_variance():
    rows, labels, means = draw(counts=(15,))
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


def test_what_is_given_back_is_a_quadratic_form_of_an_inverse_and_never_negative():
    learned = learn(*draw())
    generator = torch.Generator().manual_seed(0)
    offset_NR, identity_N = torch.randn(20, 8, generator=generator), torch.randint(12, (20,), generator=generator)
    found_SN = learned.given_back(offset_NR, identity_N, (0.5, 3.0)).numpy()
    for s, strength in enumerate((0.5, 3.0)):
        for n, (o, c) in enumerate(zip(offset_NR.numpy().astype(np.float64), identity_N.tolist(), strict=True)):
            inverse = np.linalg.inv(np.eye(8) + strength * covariance(learned, c).numpy().astype(np.float64))
            assert found_SN[s, n] == pytest.approx((o @ o - o @ inverse @ o) / 2, abs=1e-4)
    assert (found_SN >= 0).all()
    again = learned.given_back(offset_NR[:3], identity_N[:3], (0.5, 3.0))  # from kept factors
    np.testing.assert_allclose(again, found_SN[:, :3], atol=1e-5)
    assert torch.equal(learned.given_back(offset_NR[:, :0], identity_N, (1.0,)), torch.zeros(1, 20))


def test_the_nearest_sample_is_found_and_one_that_is_left_out_is_not():
    rows, labels, means = draw(dim=8)
    learned = learn(rows, labels, means)  # as many directions as dimensions: nothing is lost
    probes = normalise_rows(np.random.default_rng(5).standard_normal((12, 8)).astype(np.float32))
    along = torch.from_numpy(probes) @ learned.basis_DR
    identity, cosine = torch.arange(12), torch.from_numpy((probes * means).sum(1))
    found = learned.with_samples(cosine, along, identity, torch.full((12,), -1))
    best = [int(np.argmax(np.where(labels == c, rows @ probes[c], -2))) for c in range(12)]
    for c in range(12):
        assert float(found[c]) == pytest.approx(
            float(rows[best[c]] @ probes[c]), abs=2e-3
        )  # samples are kept as halves
    rest = learned.with_samples(cosine, along, identity, torch.tensor(best))
    for c in range(12):
        others = np.delete(rows, best[c], 0)[np.delete(labels, best[c]) == c]
        expected = (others @ probes[c]).max() if len(others) else -1
        assert float(rest[c]) == pytest.approx(expected, abs=2e-3)


def test_identities_that_give_nothing_are_in_no_covariance():
    rows, labels, means = draw()
    donor = torch.arange(12) % 2 == 0
    one = learn(rows, labels, means, donor_K=donor)
    assert set(one.near_Kj[one.near_Kj >= 0].tolist()) <= set(range(0, 12, 2))
    alone = learn(rows[labels % 2 == 0], labels[labels % 2 == 0], means)
    for matrix_RR in (covariance(one, 3), covariance(alone, 3)):
        assert torch.isfinite(matrix_RR).all()
    turned = one.basis_DR @ covariance(one, 3) @ one.basis_DR.T
    torch.testing.assert_close(turned, alone.basis_DR @ covariance(alone, 3) @ alone.basis_DR.T, atol=1e-3, rtol=0)


def test_many_samples_are_thinned_evenly(monkeypatch):
    rows, labels, means = draw(counts=(9,))
    kept = np.concatenate([np.flatnonzero(labels == c)[:5] for c in range(12)])
    expected = learn(rows[kept], labels[kept], means)
    monkeypatch.setattr(local_metric, "LEARN_ROWS", 60)  # 12 identities of 9: five each remain
    torch.testing.assert_close(covariances(learn(rows, labels, means)), covariances(expected))


def test_people_enrolled_later_have_the_covariance_of_those_learned_at_once():
    rows, labels, means = draw(classes=12)
    first = labels < 8
    # All directions and no prior: what does not depend on those who came first is then the same.
    started = learn(rows[first], labels[first], means[:8], prior=0)
    samples = TrainingSamples(rows, Split(np.flatnonzero(~first), labels[~first].astype(np.int32)))
    found = local_metric.extended(started, torch.from_numpy(means), samples, 6)
    at_once = learn(rows, labels, means, prior=0)
    assert torch.equal(found.start_K, at_once.start_K)
    torch.testing.assert_close(found.mean_length_K, at_once.mean_length_K)
    for one, other in zip(found.near_Kj[8:].tolist(), at_once.near_Kj[8:].tolist(), strict=True):
        assert {i for i in one if i >= 0} == {i for i in other if i >= 0}
    for identity in range(8, 12):
        one, other = (
            learned.basis_DR @ covariance(learned, identity) @ learned.basis_DR.T for learned in (found, at_once)
        )
        torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)  # samples are kept in half precision


def test_further_samples_of_known_people_are_kept_up_to_sixteen():
    rows, labels, means = draw(classes=4, counts=(12, 3, 9, 1))
    half = np.arange(len(labels)) % 2 == 0
    started = learn(rows[half], labels[half], means)
    more = TrainingSamples(np.tile(rows, (2, 1)), Split(np.arange(2 * len(rows)), np.tile(labels, 2).astype(np.int32)))
    order = np.argsort(more.split.labels, kind="stable")
    more = TrainingSamples(more.embeddings_ND, Split(order, more.split.labels[order]))
    found = local_metric.extended(started, torch.from_numpy(means), more, 6)
    had = started.start_K.diff().numpy()
    expected = np.minimum(16, had + np.minimum(16, 2 * np.bincount(labels)))
    assert found.start_K.diff().tolist() == expected.tolist() == [16, 8, 16, 3]
    assert torch.isfinite(covariances(found)).all()
    kept_first = found.centred_NR[: had[0]]
    assert torch.equal(kept_first, started.centred_NR[: had[0]])
