# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lightning_modules.baselines.multilabel_base import Infeasible
from lightning_modules.baselines.multilabel_knn import MLKNN
from lightning_modules.baselines.multilabel_linear import BinaryRelevance, ClassifierChain, LabelPowerset

ALL = [BinaryRelevance(), ClassifierChain(), LabelPowerset(), MLKNN(k=3)]


def rows(n=60, labels=4, seed=0):
    random = np.random.default_rng(seed)
    features = random.random((n, 5)).astype(np.float32)
    return features, (features[:, :labels] + 0.1 * random.normal(size=(n, labels))) > 0.6


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_scores_tell_rows_with_a_label_from_rows_without(method):
    features, labels = rows()
    scores = method.fit(features, labels).scores(features)
    assert scores.shape == labels.shape and scores.dtype == np.float32 and scores.min() >= 0 and scores.max() <= 1
    for label in range(labels.shape[1]):
        assert scores[labels[:, label], label].mean() > scores[~labels[:, label], label].mean() + 0.1


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_labels_that_no_row_or_every_row_has_score_0_and_1(method):
    features, labels = rows()
    labels[:, 1], labels[:, 3] = False, True
    scores = method.fit(features, labels).scores(features)
    assert (scores[:, 1] == 0).all() and (scores[:, 3] == 1).all()
    alone = method.fit(features, labels[:, :2]).scores(features)  # one label left to learn
    assert alone.shape == (60, 2) and alone[labels[:, 0], 0].mean() > alone[~labels[:, 0], 0].mean()
    assert (method.fit(features, labels[:, 1:2]).scores(features) == 0).all()


@pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)
def test_the_second_fit_forgets_the_first_and_repeats_itself(method):
    features, labels = rows()
    one = method.fit(features, labels, seed=1).scores(features)
    method.fit(*rows(n=30, labels=3, seed=5), seed=2)
    np.testing.assert_array_equal(method.fit(features, labels, seed=1).scores(features), one)


def test_binary_relevance_is_one_regression_per_label():
    features, labels = rows()
    scores = BinaryRelevance(C=2.0).fit(features, labels).scores(features)
    for label in range(4):
        single = LogisticRegression(C=2.0, solver="liblinear").fit(features, labels[:, label])
        np.testing.assert_allclose(scores[:, label], single.predict_proba(features)[:, 1], atol=1e-5)


def test_each_link_of_a_chain_sees_the_labels_before_it():
    features, labels = rows()
    chain = ClassifierChain().fit(features, labels, seed=3).model
    order = list(chain.order_)
    assert sorted(order) == [0, 1, 2, 3]
    for place, label in enumerate(order):
        seen = np.c_[features, labels[:, order[:place]]]
        alone = LogisticRegression(solver="liblinear").fit(seen, labels[:, label])
        np.testing.assert_allclose(chain.estimators_[place].coef_, alone.coef_, atol=1e-2)


def test_a_powerset_score_is_the_probability_of_all_sets_with_the_label():
    features, labels = rows(n=80, labels=2)
    method = LabelPowerset(max_iter=200).fit(features, labels)
    classes = labels @ [2, 1]
    model = LogisticRegression(max_iter=200).fit(features, classes)
    by_class = dict(zip(model.classes_, model.predict_proba(features).T, strict=True))
    expected = np.stack([by_class.get(2, 0) + by_class.get(3, 0), by_class.get(1, 0) + by_class.get(3, 0)], axis=1)
    np.testing.assert_allclose(method.scores(features), expected, atol=1e-3)


def test_too_many_label_sets_are_not_feasible():
    with pytest.raises(Infeasible, match="more than max_sets = 3"):
        LabelPowerset(max_sets=3).fit(*rows())


def test_ml_knn_by_hand():
    # Rows 0, 1, 2 on a line at 0, 1, 5; label at rows 0 and 1; k = 1, s = 1.
    # Neighbours: of 0 row 1, of 1 row 0, of 2 row 1, all with the label. Prior (1 + 2) / (2 + 3) = 0.6.
    # With label: 2 rows with c = 1, so P(c = 1 | yes) = (1 + 2) / (2 + 2) = 3/4; without: 1 row, (1 + 1) / (2 + 1).
    features, labels = np.array([[0], [1], [5]], np.float32), np.array([[1], [1], [0]], bool)
    method = MLKNN(k=1).fit(features, labels)
    yes, no = 0.6 * 3 / 4, 0.4 * 2 / 3
    assert method.scores(np.array([[0.2]]))[0, 0] == pytest.approx(yes / (yes + no))
    yes, no = 0.6 * 1 / 4, 0.4 * 1 / 3  # next to row 2, whose label is missing
    assert method.scores(np.array([[9.0]]))[0, 0] == pytest.approx(yes / (yes + no))


def test_ml_knn_with_fewer_rows_than_neighbours_takes_all_others():
    features, labels = np.array([[0], [1], [5]], np.float32), np.array([[1], [1], [0]], bool)
    assert MLKNN(k=10).fit(features, labels).used_k == 2
