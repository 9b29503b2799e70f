# SPDX-License-Identifier: MIT
"""Axes: B probes, X candidates, J kinds of evidence."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from datamodules.class_means import class_means, normalise_rows
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules import local_metric
from lightning_modules.decisions import evidence
from lightning_modules.scores import ProbeScores


def draw(b=400, x=6, j=3, seed=0, factors=(12.0, 5.0, 1.0)):
    """Evidence and right candidates drawn from the model itself."""
    random = np.random.default_rng(seed)
    evidence_JBX = 0.2 * random.standard_normal((j, b, x)).astype(np.float32)
    z_BX = np.einsum("j,jbx->bx", factors[:j], evidence_JBX)
    p_BX = np.exp(z_BX - logsumexp(z_BX, axis=1, keepdims=True))
    right_BX = np.zeros((b, x), bool)
    right_BX[np.arange(b), [random.choice(x, p=p) for p in p_BX]] = True
    return torch.from_numpy(evidence_JBX), torch.from_numpy(right_BX)


def mean_log_p(evidence_JBX, right_BX, factors):
    z_BX = np.einsum("j,jbx->bx", factors, evidence_JBX.double().numpy())
    right = np.where(right_BX.numpy(), z_BX, -np.inf)
    return float((logsumexp(right, axis=1) - logsumexp(z_BX, axis=1)).mean())


def test_factors_are_found_again_and_are_the_best_of_another_optimiser():
    evidence_JBX, right_BX = draw(b=4000)
    factors, probability = evidence.best_weights(evidence_JBX, right_BX)
    np.testing.assert_allclose(factors, (12, 5, 1), atol=1.0)
    assert probability == pytest.approx(mean_log_p(evidence_JBX, right_BX, factors), abs=1e-9)

    def cost(f):
        prior = ((f[0] - 20) ** 2 + f[1] ** 2 + f[2] ** 2) / (2 * 20**2)
        return -4000 * mean_log_p(evidence_JBX, right_BX, f) + prior

    other = minimize(cost, [5.0, 5.0, 5.0], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6})
    np.testing.assert_allclose(factors, other.x, atol=0.02)


def test_two_candidates_are_a_logistic_regression_on_their_difference():
    evidence_JBX, right_BX = draw(b=3000, x=2, j=2, factors=(9.0, 6.0))
    difference = (evidence_JBX[:, :, 0] - evidence_JBX[:, :, 1]).T.numpy()
    expected = LogisticRegression(fit_intercept=False, C=1e6, tol=1e-8).fit(difference, right_BX[:, 0].numpy())
    factors, _ = evidence.best_weights(evidence_JBX, right_BX)
    np.testing.assert_allclose(factors, expected.coef_[0], rtol=0.01)


def test_evidence_that_misleads_gets_no_weight():
    evidence_JBX, right_BX = draw(factors=(12.0, -8.0, 3.0), b=1000)
    factors, _ = evidence.best_weights(evidence_JBX, right_BX)
    assert factors[1] == 0 and factors[0] > 5


def test_probes_without_a_right_candidate_change_nothing():
    evidence_JBX, right_BX = draw(b=50)
    expected, probability = evidence.best_weights(evidence_JBX, right_BX)
    wider = torch.cat([evidence_JBX, torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))], 1)
    right = torch.nn.functional.pad(right_BX, (0, 0, 0, 4))
    found, same = evidence.best_weights(wider, right)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert same == pytest.approx(probability, abs=1e-7)


def test_nothing_known_leaves_the_first_kind():
    evidence_JBX, right_BX = draw(b=20)
    factors, probability = evidence.best_weights(evidence_JBX, torch.zeros_like(right_BX))
    assert factors.tolist() == [20, 0, 0] and probability == -np.inf
    factors, _ = evidence.best_weights(evidence_JBX[:, :0], right_BX[:0])
    assert factors.tolist() == [20, 0, 0]


def test_a_few_separable_probes_give_finite_factors():
    evidence_JBX = torch.zeros(3, 2, 2)
    evidence_JBX[:, :, 0] = 1.0
    factors, _ = evidence.best_weights(evidence_JBX, torch.tensor([[True, False]] * 2))
    assert np.isfinite(factors).all() and factors.max() < 100


def test_answers_that_the_evidence_repairs_and_breaks_are_counted():
    mean_BX = torch.tensor([[0.9, 0.8], [0.9, 0.8], [0.9, 0.8], [0.9, 0.1]])
    other_BX = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.1]])
    right_BX = torch.tensor([[False, True], [False, True], [True, False], [False, True]])
    assert evidence.changed(torch.stack([mean_BX, other_BX]), torch.tensor([1.0, 1.0]), right_BX) == (2, 1)


def test_the_margin_is_the_largest_lead_that_an_own_covariance_takes_from_the_best():
    kinds_5BX = torch.zeros(5, 2, 3)
    kinds_5BX[0] = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.5]])
    kinds_5BX[4] = 0.1
    kinds_5BX[1] = 0.1 + torch.tensor([[-0.02, 0.01, 0.0], [0.04, 0.0, 0.01]])
    factors_J = torch.tensor([4.0, 10.0, 0.0, 1.0])
    # First probe: 0.01 - -0.02, second 0.04 - 0.01; times 10 / (4 + 0 + 1).
    assert evidence.margin(kinds_5BX, factors_J) == pytest.approx(0.06, abs=1e-6)


def few_are_kept(monkeypatch, images, k, spread):
    """(N, D) rows of k classes of so many images, of which two of three or 16 of 40 are kept, and their class means."""
    monkeypatch.setattr(local_metric, "LEARN_ROWS", 1 if images == 3 else 1 << 20)
    random, labels = np.random.default_rng(0), np.repeat(np.arange(k), images).astype(np.int32)
    centres = normalise_rows(random.standard_normal((k, 12)))
    rows = normalise_rows(centres[labels] + spread * random.standard_normal((len(labels), 12)))
    samples = TrainingSamples(rows, Split(np.arange(len(labels)), labels))
    return rows, labels, samples, torch.from_numpy(class_means(rows, samples.split, k))


@pytest.mark.parametrize("images", [3, 40])
def test_a_training_sample_is_compared_with_the_mean_of_all_others_of_its_class(images, monkeypatch):
    """Two of three samples are kept, or 16 of 40; class means are of all."""
    k = 60
    rows, labels, samples, means = few_are_kept(monkeypatch, images, k, 0.15)
    scores = ProbeScores(torch.from_numpy(rows), means, Partition(np.zeros(k), 1), None)
    kinds, right = evidence.of_training_samples(scores, samples, 0, (4, 20, 4), (1.0,), 5)
    probes, _ = local_metric.kept(samples, k)
    probes = probes[labels[probes] % 2 == 1]  # of the identities of the other fold
    others = [rows[(labels == labels[p]) & (np.arange(len(rows)) != p)].mean(0) for p in probes]
    expected = (rows[probes] * normalise_rows(np.stack(others))).sum(1)
    found = kinds[0, 0][right].numpy()
    assert right.any(1).all() and np.abs(found - expected).mean() < 0.01


@pytest.mark.parametrize("images", [3, 40])
def test_length_and_tightness_are_those_of_all_samples_of_a_class(images, monkeypatch):
    """Two of three samples are kept, or 16 of 40: the mean cosine of two samples is the same as of all."""
    k = 300
    rows, labels, samples, means = few_are_kept(monkeypatch, images, k, 0.3)
    local = local_metric.learn(means, samples, 4, 20, 4)
    sums = np.stack([rows[labels == c].sum(0, dtype=np.float64) for c in range(k)])
    cosines = ((sums**2).sum(1) - images) / (images * (images - 1))
    assert local.length**2 == pytest.approx(cosines.mean(), abs=0.02)
    found = evidence.tightness(local, local.count_K, local.mean_length_K).numpy()
    shrunk = ((images - 1) * cosines + 4 * cosines.mean()) / (images + 3) / cosines.mean()
    assert found.mean() == pytest.approx(shrunk.mean(), abs=0.01)
    again = local_metric.extended(local, means, samples, 20)
    assert (local.count_K == images).all()
    assert (again.count_K == 2 * images).all()
    torch.testing.assert_close(again.mean_length_K, local.mean_length_K, atol=1e-5, rtol=0)
