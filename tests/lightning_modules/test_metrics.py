# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from lightning_modules.metrics.identification import IdentificationMetrics

answers = st.integers(1, 9).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=60)
    )
)


def metric_of(k, pairs):
    metric = IdentificationMetrics(k)
    metric.update(*torch.tensor(pairs).T)
    return metric


@given(answers)
def test_percentages_are_those_of_scikit_learn_over_the_tested_identities(case):
    k, pairs = case
    answer, truth = np.array(pairs).T
    found = {name: float(value) for name, value in metric_of(k, pairs).compute().items()}
    expected = precision_recall_fscore_support(truth, answer, labels=np.unique(truth), average="macro", zero_division=0)
    for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert found[name] == pytest.approx(100 * value, abs=1e-9)
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(truth, answer), abs=1e-9)


@given(answers, st.integers(0, 100))
def test_any_batches_in_any_order_give_the_same(case, seed):
    k, pairs = case
    pairs = np.array(pairs)
    metric = IdentificationMetrics(k)
    for part in np.array_split(np.random.default_rng(seed).permutation(pairs), 4):
        if len(part):
            metric.update(*torch.from_numpy(part).T)
    assert metric.compute() == metric_of(k, pairs).compute()


@given(answers)
def test_renumbering_the_identities_changes_nothing(case):
    k, pairs = case
    order = np.random.default_rng(0).permutation(k)
    one, other = (metric_of(k, p).compute() for p in (np.array(pairs), order[np.array(pairs)]))
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-9)


def test_recall_per_identity_and_none_where_nothing_was_tested():
    recall = metric_of(4, [(0, 0), (1, 0), (1, 1), (2, 1), (0, 1), (2, 1)]).recall_K()
    np.testing.assert_allclose(recall, [50, 25, np.nan, np.nan])


def test_reset_forgets():
    metric = metric_of(3, [(0, 1), (1, 1)])
    metric.reset()
    metric.update(torch.tensor([2, 2]), torch.tensor([2, 2]))
    assert {name: float(value) for name, value in metric.compute().items()} == dict.fromkeys(
        ("accuracy", "precision", "recall", "f1"), 100.0
    )


def test_a_million_identities_take_three_numbers_each():
    metric = IdentificationMetrics(1_000_000)
    metric.update(torch.tensor([999_999, 5]), torch.tensor([999_999, 6]))
    assert float(metric.compute()["accuracy"]) == 50
    assert sum(state.nbytes for state in (metric.hits, metric.answers, metric.samples)) == 24_000_000
