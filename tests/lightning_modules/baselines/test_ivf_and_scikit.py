# SPDX-License-Identifier: MIT
"""Inverted lists against a search of all class means; linear models against their own predictions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.baselines.base import Infeasible, unit_rows
from lightning_modules.baselines.ivf import InvertedLists
from lightning_modules.baselines.scikit_linear import ScikitLinear


def test_all_lists_are_the_nearest_class_mean(task):
    made = task(k=200)
    probes, _ = unit_rows(made.val)
    expected = (probes @ torch.from_numpy(made.class_means_KD).T).max(1)
    found = InvertedLists(probes=9, lists=9).fit(made).decide(3 * probes)
    assert torch.equal(found.identity_B, expected.indices)
    torch.testing.assert_close(found.score_B, expected.values)


def test_one_list_is_the_nearest_mean_among_those_of_the_nearest_centre(task):
    made = task(k=200)
    probes, _ = unit_rows(made.val)
    predictor = InvertedLists(probes=1, lists=8).fit(made)
    centres = predictor.quantizer.reconstruct_n(0, 8)
    home, asked = ((rows @ centres.T).argmax(1) for rows in (made.class_means_KD, probes.numpy()))
    for probe, cluster, identity in zip(probes.numpy(), asked, predictor.decide(probes).identity_B, strict=True):
        members = np.flatnonzero(home == cluster)
        assert identity == members[(made.class_means_KD[members] @ probe).argmax()]


def test_lists_are_as_many_as_sub_networks_unless_stated(task):
    made = task()
    assert InvertedLists().fit(made).index.nlist == 3 and InvertedLists(lists=5).fit(made).index.nlist == 5
    with pytest.raises(Infeasible, match="31 lists for 30"):
        InvertedLists(lists=31).fit(made)


def test_more_lists_find_more(task):
    made = task(k=200, noise=1.0)
    probes, truth = unit_rows(made.val)
    hits = [
        (InvertedLists(n, 16).fit(made).decide(probes).identity_B == truth).float().mean().item() for n in (1, 4, 16)
    ]
    assert hits == sorted(hits) and hits[0] < hits[2]


@pytest.mark.parametrize("estimator", [partial(LinearSVC, C=2.0), partial(LogisticRegression, C=50.0, max_iter=300)])
@pytest.mark.parametrize("k", [2, 3, 30])
def test_answers_are_those_of_scikit_learn(estimator, k, task):
    made = task(k=k, noise=1.0)
    rows, labels = unit_rows(made.train)
    probes, _ = unit_rows(made.val)
    theirs = estimator()
    theirs.set_params(random_state=made.seed).fit(rows.numpy(), labels.numpy())
    found = ScikitLinear(estimator).fit(made).decide(probes).identity_B
    assert found.tolist() == theirs.predict(probes.numpy()).tolist()


def test_too_many_identities_are_refused_with_the_reason(task):
    with pytest.raises(Infeasible, match="30 identities, more than most_identities = 29"):
        ScikitLinear(LinearSVC, 29).fit(task())


def test_the_strength_is_the_one_of_most_right_answers_on_validation(task):
    made = task(k=30, noise=2.0, per_class=3)
    (rows, labels), (probes, truth) = unit_rows(made.train), unit_rows(made.val)
    strengths = [1e-4, 1.0, 1e6]
    models = [LogisticRegression(C=c, max_iter=200).fit(rows.numpy(), labels.numpy()) for c in strengths]
    hits = [(one.predict(probes.numpy()) == truth.numpy()).mean() for one in models]
    assert len(set(hits)) == 3
    estimator = partial(LogisticRegression, max_iter=200)
    found = ScikitLinear(estimator, strengths=strengths).fit(made)
    assert (found.decide(probes).identity_B == truth).float().mean() == pytest.approx(max(hits))
    nobody = TrainingSamples(made.val.embeddings_ND, Split(np.zeros(0, np.int64), np.zeros(0, np.int32)))
    blind = ScikitLinear(estimator, strengths=strengths).fit(replace(made, val=nobody)).decide(probes).identity_B
    assert blind.tolist() == models[1].predict(probes.numpy()).tolist()


def test_two_ways_to_give_c_are_refused():
    with pytest.raises(ValueError, match=r"C = 3.*strengths=\[3\]"):
        ScikitLinear(partial(LogisticRegression, C=3), strengths=[1, 10])
