# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from lightning_modules.multilabel_metrics import (
    THRESHOLDS,
    all_metrics,
    best_threshold,
    example_based,
    label_based,
    leaky_per_cluster,
    own_clusters,
    precision_at,
)

TRUE = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1]], bool)
PREDICTED = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)


def test_example_based_by_hand():
    # rows: |both| 1 0 0 0 3, |Y| 2 0 0 1 3, |Z| 2 0 1 0 3, |either| 3 0 1 1 3
    found = example_based(TRUE, PREDICTED)
    assert found["accuracy"] == pytest.approx(100 * (1 / 3 + 1 + 0 + 0 + 1) / 5)
    assert found["precision"] == pytest.approx(100 * (1 / 2 + 1 + 0 + 0 + 1) / 5)
    assert found["recall"] == pytest.approx(100 * (1 / 2 + 1 + 0 + 0 + 1) / 5)
    assert found["f1"] == pytest.approx(50.0)
    assert found["hamming_loss"] == pytest.approx(100 * (2 + 0 + 1 + 1 + 0) / 20)


def test_f1_is_of_the_mean_precision_and_recall_not_the_mean_of_the_rows():
    # precision 1 and 1/3, recall 1/2 and 1: 2 (2/3) (3/4) / (2/3 + 3/4); the rows' own F1 are 2/3 and 1/2
    found = example_based(np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 0, 0], [1, 1, 1]], bool))
    assert found["f1"] == pytest.approx(100 * 2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))


def test_nothing_right_is_f1_of_0():
    assert example_based(np.eye(2, dtype=bool), ~np.eye(2, dtype=bool))["f1"] == 0


tables = st.tuples(st.integers(1, 12), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


@given(tables)
def test_example_based_is_scikit_learns(pair):
    true, predicted = pair
    found = example_based(true, predicted)
    neither = ~(true | predicted).any(axis=1)
    # scikit-learn's zero_division fills every empty denominator alike; ours calls only the fully empty row right
    assert found["accuracy"] == pytest.approx(
        100 * sk.jaccard_score(true, predicted, average="samples", zero_division=1)
    )
    assert found["hamming_loss"] == pytest.approx(100 * sk.hamming_loss(true, predicted))
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        expected = score(true, predicted, average="samples", zero_division=0) + neither.mean()
        assert found[name] == pytest.approx(100 * expected)


@given(tables)
def test_micro_and_macro_f1_are_scikit_learns(pair):
    found = label_based(*pair)
    for kind in ("micro", "macro"):
        assert found[f"{kind}_f1"] == pytest.approx(100 * sk.f1_score(*pair, average=kind, zero_division=0))


@given(tables, st.randoms(use_true_random=False))
def test_order_of_rows_and_labels_does_not_matter(pair, random):
    rows, columns = (random.sample(range(size), size) for size in pair[0].shape)
    mixed = [each[np.ix_(rows, columns)] for each in pair]
    for measure in (example_based, label_based):
        assert measure(*mixed) == pytest.approx(measure(*pair))


def test_precision_at_k_by_hand():
    true = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
    scores = np.array([[0.9, 0.8, 0.1, 0.7, 0.0, 0.2], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    assert precision_at(true, scores) == pytest.approx(
        {"precision_at_1": 50, "precision_at_3": 100 * 2 / 6, "precision_at_5": 100 * 2 / 10}
    )


def test_of_equal_scores_the_first_label_wins_and_missing_labels_count_as_wrong():
    true = np.array([[0, 1]], bool)
    found = precision_at(true, np.array([[0.5, 0.5]]))
    assert found == pytest.approx({"precision_at_1": 0, "precision_at_3": 100 / 3, "precision_at_5": 20})


@given(arrays(bool, (6, 9)), arrays(np.float32, (6, 9), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
def test_precision_at_k_is_that_of_a_plain_stable_sort(true, scores):
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 3, 5):
        expected = np.take_along_axis(true, order, axis=1)[:, :k].mean()
        assert precision_at(true, scores)[f"precision_at_{k}"] == pytest.approx(100 * expected)


@settings(max_examples=25)
@given(
    arrays(bool, (5, 4)),
    arrays(np.float32, (5, 4), elements=st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.01, 0.3, 0.5, 0.99]))),
)
def test_the_best_threshold_is_the_best_of_a_plain_search(true, scores):
    f1 = [example_based(true, scores >= threshold)["f1"] for threshold in THRESHOLDS.tolist()]
    found = best_threshold(true, scores)
    assert example_based(true, scores >= found)["f1"] == pytest.approx(max(f1))
    assert not any(value > max(f1) - 1e-9 for value, t in zip(f1, THRESHOLDS, strict=True) if t > found + 1e-9)


def test_all_metrics_predict_from_the_threshold_on():
    found = all_metrics(np.array([[1, 0]], bool), np.array([[0.3, 0.29]], np.float32), 0.3)
    assert found["accuracy"] == found["micro_f1"] == 100 and found["precision_at_1"] == 100


# Leaky readings -------------------------------------------------------------------------------------------------------

CLUSTER_OF = np.array([0, 0, 1, 1])


def test_own_clusters_by_hand():
    expected = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(own_clusters(TRUE, CLUSTER_OF), np.array(expected, bool))


def test_leaky_per_cluster_is_the_mean_over_clusters_of_the_rows_that_have_a_label_in_it():
    scores = PREDICTED.astype(np.float32)
    one = example_based(TRUE[[0, 3, 4]][:, :2], PREDICTED[[0, 3, 4]][:, :2])
    other = example_based(TRUE[[4]][:, 2:], PREDICTED[[4]][:, 2:])
    found = leaky_per_cluster(TRUE, scores, CLUSTER_OF, 0.5)
    for key in one:
        assert found[key] == pytest.approx((one[key] + other[key]) / 2)


def test_with_one_cluster_and_a_label_in_every_row_leaky_is_honest():
    random = np.random.default_rng(0)
    true, scores = random.random((30, 5)) < 0.3, random.random((30, 5)).astype(np.float32)
    true[:, 0] |= ~true.any(axis=1)
    alone = np.zeros(5, int)
    assert leaky_per_cluster(true, scores, alone, 0.4) == pytest.approx(all_metrics(true, scores, 0.4))
    assert own_clusters(true, alone).all()
