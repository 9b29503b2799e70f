# SPDX-License-Identifier: MIT
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.sources.pairs import VerificationPairs
from lightning_modules.verification import (
    best_threshold,
    equal_error_rate,
    squared_distances,
    threshold_at_far,
    verify,
)

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


def pairs(n=400, n_folds=4, seed=0, gap=1.5):
    random = np.random.default_rng(seed)
    same = np.tile([True, False], n // 2)
    distance = random.normal(np.where(same, 0, gap), 1.0)
    return distance, same, np.arange(n) * n_folds // n


def test_squared_distance_by_hand_and_whatever_the_length_of_the_rows():
    rows = np.array([[1, 0], [0, 1], [-1, 0], [3, 4]], np.float16)
    left, right = np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3])
    np.testing.assert_allclose(squared_distances(rows, left, right), [0, 2, 4, 2 - 2 * 0.6], atol=1e-6)
    np.testing.assert_allclose(
        squared_distances(rows * np.float16([[2], [5], [1], [9]]), left, right), [0, 2, 4, 0.8], atol=1e-6
    )


@pytest.mark.parametrize("factor", [1e20, 1e-25, 1e-37])
def test_squared_distances_of_very_long_and_very_short_rows(factor):
    rows = (factor * np.array([[1.0, 0], [0, 1], [-1, 0], [3, 4]])).astype(np.float32)
    found = squared_distances(rows, np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(found, [0, 2, 4, 0.8], atol=1e-6)


def test_chunks_of_pairs_do_not_change_the_distances(monkeypatch):
    random = np.random.default_rng(0)
    rows, left, right = random.normal(size=(9, 5)), random.integers(0, 9, 20), random.integers(0, 9, 20)
    whole = squared_distances(rows, left, right)
    monkeypatch.setattr("lightning_modules.verification.CHUNK_PAIRS", 3)
    np.testing.assert_allclose(squared_distances(rows, left, right), whole)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_no_threshold_answers_more_pairs_rightly(answers):
    distance = np.array([d for d, _ in answers], float)
    same = np.array([s for _, s in answers])
    found = ((distance <= best_threshold(distance, same)) == same).sum()
    assert found == max(((distance <= t) == same).sum() for t in np.arange(-0.5, 7, 0.5))


def test_threshold_lies_midway_and_at_either_end():
    assert best_threshold(np.array([1.0, 3.0]), np.array([True, False])) == 2.0
    assert best_threshold(np.array([1.0, 3.0]), np.array([True, True])) == 3.0
    assert best_threshold(np.array([1.0, 3.0]), np.array([False, False])) < 1.0


def test_area_and_curve_agree_with_counting_all_pairs_of_pairs():
    distance, same, fold = pairs(n=60, n_folds=3)
    distance = distance.round(1)  # ties count half
    result = verify(distance, same, fold, (0.1,))
    ahead = distance[same][:, None] < distance[~same][None, :]
    level = distance[same][:, None] == distance[~same][None, :]
    np.testing.assert_allclose(result.auc, (ahead + level / 2).mean())
    np.testing.assert_allclose(result.auc, roc_auc_score(same, -distance))
    thresholds = np.concatenate([[-np.inf], np.unique(distance)])
    np.testing.assert_allclose(result.far, [(distance[~same] <= t).mean() for t in thresholds])
    np.testing.assert_allclose(result.val, [(distance[same] <= t).mean() for t in thresholds])


def test_equal_error_rate_is_where_the_curve_crosses_the_diagonal():
    distance, same, fold = pairs()
    result = verify(distance, same, fold, (0.1,))
    crossing = brentq(lambda far: far - (1 - np.interp(far, result.far, result.val)), 0, 1)
    assert abs(result.eer - crossing) < 0.5 / same.sum()  # np.interp leaves open where on a vertical step it lands
    assert equal_error_rate(np.array([0, 0, 1.0]), np.array([0, 1.0, 1.0])) == 0
    assert equal_error_rate(np.array([0, 1.0]), np.array([0, 1.0])) == 0.5
    assert equal_error_rate(np.array([0, 0.2, 1.0]), np.array([0, 0.8, 1.0])) == pytest.approx(0.2)


def test_thresholds_come_from_the_other_folds_alone():
    distance, same, fold = pairs()
    before = verify(distance, same, fold, (0.1,))
    spoilt = np.where(fold == 2, 50 - distance, distance)
    after = verify(spoilt, same, fold, (0.1,))
    assert after.threshold[2] == before.threshold[2]
    assert after.val_at_far[0].threshold[2] == before.val_at_far[0].threshold[2]
    assert after.accuracy[2] < before.accuracy[2]
    assert after.threshold[0] != before.threshold[0]


def test_folds_by_brute_force():
    distance, same, fold = pairs(n=80, n_folds=4, seed=3)
    result = verify(distance, same, fold, (0.1,))
    val = result.val_at_far[0]
    for f in range(4):
        here = fold == f
        rest = np.sort(distance[~here & ~same])
        assert (rest <= val.threshold[f]).sum() == 3  # a tenth of 30
        assert val.val[f] == np.mean([d <= val.threshold[f] for d in distance[here & same]])
        assert val.far[f] == np.mean([d <= val.threshold[f] for d in distance[here & ~same]])
        assert result.accuracy[f] == np.mean((distance[here] <= result.threshold[f]) == same[here])


@pytest.mark.parametrize("far", [0.1, 0.25, 0.999])
def test_threshold_interpolates_and_keeps_to_the_far_on_its_own_pairs(far):
    distance = np.random.default_rng(0).permutation(np.arange(1.0, 41.0))
    threshold = threshold_at_far(distance, far)
    assert threshold == pytest.approx(far * 40)  # FAR(d) = d / 40 at every distance
    assert (distance <= threshold).mean() <= far


def test_equal_distances_never_push_the_far_over_its_target():
    distance = np.array([1.0, 2, 2, 2, 2, 3, 4, 5, 6, 7])
    assert threshold_at_far(distance, 0.3) == 1.0
    assert threshold_at_far(distance, 0.5) == pytest.approx(2.0)
    with pytest.raises(InputError, match="0.44 or more"):
        threshold_at_far(distance[1:], 0.3)


def test_a_far_that_cannot_be_reached_is_an_error_never_zero():
    distance, same, fold = pairs(n=400, n_folds=4)
    with pytest.raises(InputError, match="150 different pairs in the other folds.*0.0067 or more"):
        verify(distance, same, fold, (1e-3,))
    assert verify(distance, same, fold, (1 / 150,)).val_at_far[0].val.mean() > 0


@pytest.mark.parametrize("far", [0.0, 1.0, -0.1])
def test_a_far_outside_of_zero_to_one_is_refused(far):
    with pytest.raises(InputError, match="above 0, below 1"):
        threshold_at_far(np.arange(10.0), far)


def test_pairs_that_cannot_be_judged_are_refused():
    distance, same, fold = pairs(n=40, n_folds=2)
    with pytest.raises(InputError, match="1 folds"):
        verify(distance, same, np.zeros_like(fold))
    with pytest.raises(InputError, match="fold 1 without same"):
        verify(distance, same & (fold == 0), fold)
    with pytest.raises(InputError, match="1 distances"):
        verify(np.where(np.arange(40) == 3, np.nan, distance), same, fold)


def test_metrics_state_percent_and_the_spread_over_folds():
    distance, same, fold = pairs()
    result = verify(distance, same, fold, (0.1,))
    metrics = result.metrics()
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(result.accuracy))
    assert metrics["accuracy_std"] == pytest.approx(100 * np.sqrt(np.var(result.accuracy) * 4 / 3))
    assert {"val_at_far_0.1", "val_at_far_0.1_std", "far_measured_0.1", "auc", "eer", "threshold"} < set(metrics)


def test_turning_all_embeddings_changes_nothing():
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 6))
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    left, right = random.integers(0, 40, 100), random.integers(0, 40, 100)
    np.testing.assert_allclose(
        squared_distances(rows @ turn, left, right), squared_distances(rows, left, right), atol=1e-5
    )


@pytest.mark.skipif(not (SHARED / "lfw_pairs.txt").is_file(), reason="../shared/data is absent")
def test_lfw_with_edgeface_reaches_its_published_accuracy():
    embedding_set = EmbeddingSet.open(SHARED / "lfw_edgeface")
    lfw = VerificationPairs.read(SHARED / "lfw_pairs.txt", embedding_set)
    distance = squared_distances(embedding_set.embeddings, lfw.left, lfw.right)
    metrics = verify(distance, lfw.same, lfw.fold).metrics()
    assert metrics["accuracy"] == pytest.approx(99.15, abs=0.15)
    assert metrics["accuracy_std"] == pytest.approx(0.33, abs=0.05)
