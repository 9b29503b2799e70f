# SPDX-License-Identifier: MIT
"""Rows of the linear discriminant, against scikit-learn and by their invariances."""

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F

from datamodules.class_means import class_means
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.discriminant import DiscriminantInit, within_class_covariance
from lightning_modules.heads.linear import LinearHead
from lightning_modules.initialisers import PrototypeInit, starting_rows

GENERATOR = torch.Generator()


def people(classes=6, dim=8, each=(3, 4, 5, 9, 2, 7), seed=0, nuisance=1.0):
    """Unit samples that differ most in the first two directions, whoever they show."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), np.resize(each, classes))
    spread = np.r_[[nuisance, nuisance], np.full(dim - 2, 0.1)]
    rows = random.standard_normal((classes, dim))[labels] + random.standard_normal((len(labels), dim)) * spread
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return TrainingSamples(rows, Split(np.arange(len(labels)), labels))


def means_of(samples):
    return torch.from_numpy(class_means(samples.embeddings_ND, samples.split, int(samples.split.labels.max()) + 1))


def rows_of(samples, strength=1.0, means=None):
    means = means_of(samples) if means is None else means
    return DiscriminantInit(strength).fit(samples).rows(means, GENERATOR)


@pytest.mark.parametrize("strength", [0.3, 1.0, 5.0])
def test_rows_have_the_directions_of_scikit_learns_discriminant_of_the_same_shrinkage(strength):
    samples = people()
    x, y = samples.embeddings_ND.astype(np.float64), samples.split.labels
    # scikit-learn shrinks W to (1 - g) W + g tr(W) / D I: the g at which that is W + e / a I, up to a factor.
    within = sum((y == c).mean() * empirical_covariance(x[y == c]) for c in range(6))
    effective = np.trace(within @ within) / np.trace(within)
    ratio = effective / strength * 8 / np.trace(within)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=ratio / (1 + ratio)).fit(x, y).coef_
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(rows_of(samples, strength), theirs, atol=2e-5)


def test_the_covariance_is_that_of_deviations_from_the_mean_of_each_class():
    samples = people()
    x, y = samples.embeddings_ND.astype(np.float64), samples.split.labels
    scatter = sum(np.cov(x[y == c].T) * ((y == c).sum() - 1) for c in range(6))
    np.testing.assert_allclose(within_class_covariance(samples), scatter / (len(y) - 6), atol=1e-6)


def test_it_names_unseen_samples_better_than_the_class_means_where_people_vary_alike():
    both = people(classes=40, dim=16, each=(40,), nuisance=3.0)
    x, y = both.embeddings_ND, both.split.labels
    first = np.arange(len(y)) % 40 < 20
    samples = TrainingSamples(x, Split(np.flatnonzero(first), y[first]))
    probes, truth = torch.from_numpy(x[~first]), torch.from_numpy(y[~first])

    def accuracy(init):
        head = LinearHead(init.fit(samples).rows(means_of(samples), GENERATOR))
        return float((head(probes).argmax(1) == truth).float().mean())

    assert accuracy(DiscriminantInit(4.0)) > accuracy(PrototypeInit()) + 0.1


def test_rotated_embeddings_give_rotated_rows():
    samples = people()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0].astype(np.float32)
    turned = TrainingSamples(samples.embeddings_ND @ turn, samples.split)
    torch.testing.assert_close(rows_of(turned), rows_of(samples) @ torch.from_numpy(turn), atol=1e-5, rtol=0)


def test_permuted_identities_give_permuted_rows():
    samples = people()
    new_of_old = np.array([3, 0, 5, 1, 4, 2], np.int32)
    labels = new_of_old[samples.split.labels]
    order = np.argsort(labels, kind="stable")
    permuted = TrainingSamples(samples.embeddings_ND, Split(samples.split.rows[order], labels[order]))
    torch.testing.assert_close(rows_of(permuted)[new_of_old.astype(np.int64)], rows_of(samples), atol=1e-5, rtol=0)


def test_lengths_of_embeddings_do_not_count():
    samples = people()
    longer = np.random.default_rng(2).uniform(0.5, 9, (len(samples), 1)).astype(np.float32)
    stretched = TrainingSamples(samples.embeddings_ND * longer, samples.split)
    torch.testing.assert_close(within_class_covariance(stretched), within_class_covariance(samples))


def test_without_strength_without_samples_and_of_single_samples_rows_are_the_class_means():
    samples, single = people(), people(each=(1,))
    means = means_of(samples)
    torch.testing.assert_close(rows_of(samples, 0.0), means)
    assert torch.equal(DiscriminantInit().rows(means, GENERATOR), means)
    assert torch.equal(rows_of(single), means_of(single))


def test_fitting_leaves_the_initialiser_as_it_was_and_any_other_does_not_look_at_the_samples():
    samples, init, plain = people(), DiscriminantInit(2.0), PrototypeInit()
    fitted = init.fit(samples)
    assert fitted is not init and init.within_DD is None and fitted.strength == 2.0
    assert plain.fit(samples) is plain and init.informed


@pytest.mark.parametrize("most", [10, 50, 400])
def test_of_many_samples_no_more_than_asked_are_read_of_classes_from_the_first_to_the_last(most, monkeypatch):
    import lightning_modules.discriminant as module

    samples, read = people(classes=100, each=(1, 6, 9)), []
    normalise = module.normalise_rows
    monkeypatch.setattr(module, "normalise_rows", lambda rows: read.append(len(rows)) or normalise(rows))
    found = within_class_covariance(samples, most)
    assert 0.5 * min(most, len(samples)) < read[0] <= most and len(read) == 1
    assert found.shape == (8, 8) and torch.linalg.eigvalsh(found).min() > -1e-6
    kept = module._evenly(samples.split.labels, most)
    labels = samples.split.labels[kept]
    assert len(set(kept)) == len(kept) and np.bincount(labels)[np.unique(labels)].min() >= 2
    assert labels.min() < 25 and labels.max() >= 75


def test_a_part_of_the_samples_tells_nearly_the_same_covariance():
    samples = people(classes=400, each=(10,))
    whole, part = within_class_covariance(samples), within_class_covariance(samples, 1000)
    assert float((whole - part).norm() / whole.norm()) < 0.15


def test_further_rows_of_a_class_start_beside_the_first():
    samples = people()
    means, fitted = means_of(samples), DiscriminantInit().fit(samples)
    three_RCD = starting_rows(fitted, means, torch.Generator().manual_seed(0), 3).view(6, 3, 8)
    torch.testing.assert_close(three_RCD[:, 0], fitted.rows(means, GENERATOR))
    cosines = F.cosine_similarity(three_RCD[:, :1], three_RCD[:, 1:], dim=2)
    assert cosines.min() > 0.9 and cosines.max() < 0.99999


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan")])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        DiscriminantInit(strength)
