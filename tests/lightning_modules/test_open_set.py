# SPDX-License-Identifier: MIT
"""Axes: B mated searches, Q non-mated searches."""

import numpy as np
import pytest
from sklearn.metrics import det_curve as sklearn_det
from sklearn.metrics import top_k_accuracy_score

from datamodules.errors import InputError
from lightning_modules.open_set import (
    Searches,
    bootstrap_tpir,
    check_fpir,
    cumulative_match,
    det_curve,
    fpir_on_others,
    operating_point,
    threshold_at_fpir,
)  # fmt: skip


def draw(b=400, q=300, right=0.9, seed=0, decimals=None):
    random = np.random.default_rng(seed)
    score_B, score_Q = random.normal(1.5, 1, b).astype("f4"), random.normal(0, 1, q).astype("f4")
    if decimals is not None:
        score_B, score_Q = score_B.round(decimals), score_Q.round(decimals)
    right_B = random.random(b) < right
    reached_B = right_B | (random.random(b) < 0.5)
    return Searches(score_B, right_B, reached_B, random.integers(50, size=b), score_Q, random.integers(30, size=q))


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("threshold", [-9.0, 0.5, 1.3, 9.0])
def test_rates_are_counts(decimals, threshold):
    one = draw(decimals=decimals)
    threshold = float(np.float32(threshold))
    point, counted = operating_point(one, threshold), dict.fromkeys(("hit", "cluster", "class", "under"), 0)
    for score, right, reached in zip(one.score_B.tolist(), one.right_B, one.reached_B, strict=True):
        kind = ("hit" if score > threshold else "under") if right else ("class" if reached else "cluster")
        counted[kind] += 1
    expected = [counted[kind] / 400 for kind in ("hit", "cluster", "class", "under")]
    assert [point.tpir, point.wrong_cluster, point.wrong_class, point.under_threshold] == pytest.approx(expected)
    assert point.tpir + point.wrong_cluster + point.wrong_class + point.under_threshold == pytest.approx(1)
    assert point.fpir == pytest.approx(sum(score >= threshold for score in one.score_Q.tolist()) / 300)


def test_a_threshold_is_tried_on_persons_that_it_was_not_set_on():
    person_Q = np.repeat([7, 3, 9, 5], 5)  # halves: 3 and 7, 5 and 9
    score_Q = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21, 22, 23, 24, 10, 11, 12, 3, 7], "f4")
    one = Searches(*[np.zeros(1)] * 4, score_Q, person_Q)
    # At 20 % the threshold of 3 and 7 is 8, at which eight of the others pass; that of 5 and 9 is 23: none passes.
    assert fpir_on_others(one, 0.2) == pytest.approx(8 / 20)
    assert np.isnan(fpir_on_others(one, 0.05))
    many = draw(q=60_000, seed=4)
    assert fpir_on_others(many, 0.01) == pytest.approx(0.01, abs=0.0025)  # 600 of them: four standard deviations
    shared = Searches(*[np.zeros(1)] * 4, many.score_Q + 2 * (many.identity_Q % 4 == 0), many.identity_Q)
    assert fpir_on_others(shared, 0.01) > 0.05  # persons who differ: a half does not speak for the other


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("fpir", [0.01, 0.05, 0.3])
def test_no_lower_threshold_keeps_the_rate(decimals, fpir):
    one = draw(decimals=decimals)
    threshold = threshold_at_fpir(one.score_Q, fpir)
    assert operating_point(one, threshold).fpir <= fpir + 1e-12
    lower = one.score_Q[one.score_Q < threshold].max()
    assert operating_point(one, float(lower)).fpir > fpir


@pytest.mark.parametrize(
    "non_mated, fpir, threshold, seen, tpir",
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 0.2, 8.0, 0.2, 0.4),  # two may pass: the second highest; mated above 8: 9, 9
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], 0.3, 7.0, 0.3, 0.4),  # 8 is above 7, but its answer is wrong
        ([9, 8, 8, 6, 5, 4, 3, 2, 1, 0], 0.2, 9.0, 0.1, 0.0),  # of two equal scores both pass, or none
        ([8, 8, 8, 8, 8, 8, 8, 8, 8, 8], 0.2, np.nextafter(np.float32(8), np.float32(9)), 0.0, 0.4),
    ],
)
def test_threshold_rates_interval_and_det_curve_follow_one_rule(non_mated, fpir, threshold, seen, tpir):
    """The mated scores are 9, 9, 8, 7, 1; the one of 8 names another person."""
    right, persons = np.array([True, True, False, True, True]), np.zeros(10, int)
    scores_Q = np.array(non_mated, "f4")
    one = Searches(np.array([9, 9, 8, 7, 1], "f4"), right, right, np.zeros(5, int), scores_Q, persons)
    found = threshold_at_fpir(scores_Q, fpir)
    point = operating_point(one, found)
    assert found == threshold and (point.fpir, point.tpir) == pytest.approx((seen, tpir))
    # All pictures show one person, so that every resample is the sample itself.
    assert bootstrap_tpir(one, fpir, np.random.default_rng(0), 3) == pytest.approx((tpir, tpir))
    if seen:
        fpirs, fnirs = det_curve(one)
        assert fnirs[np.isclose(fpirs, seen)] == pytest.approx([1 - tpir])


def test_the_det_curve_is_that_of_scikit_learn_where_every_answer_is_right():
    one = draw(right=2.0)
    fpir, fnir = det_curve(one, points=10**6)
    labels, scores = np.r_[np.ones(400), np.zeros(300)], np.r_[one.score_B, one.score_Q]
    fpr, fnr, _ = sklearn_det(labels, scores)
    lowest = {}
    for x, y in zip(fpr, fnr, strict=True):
        lowest[round(x * 300)] = max(y, lowest.get(round(x * 300), 0))
    assert len(fpir) == 300 and fpir[0] == pytest.approx(1 / 300) and fpir[-1] == 1
    for x, y in zip(fpir, fnir, strict=True):
        assert y <= lowest.get(round(x * 300), 1) + 1e-9
        assert y == pytest.approx(np.mean(one.score_B <= np.sort(one.score_Q)[::-1][round(x * 300) - 1]))


def test_the_det_curve_falls_and_tells_ties_once():
    fpir, fnir = det_curve(draw(decimals=1), points=20)
    assert (np.diff(fpir) > 0).all() and (np.diff(fnir) <= 0).all() and len(fpir) <= 20


def test_cumulative_matches_are_top_k_accuracies():
    random = np.random.default_rng(0)
    scores, truth = random.standard_normal((200, 30)), np.r_[np.arange(30), random.integers(30, size=170)]
    order = np.argsort(-scores, axis=1)
    rank_B = 1 + (order == truth[:, None]).argmax(1)
    found = cumulative_match(np.where(rank_B > 20, 0, rank_B), 20)
    assert found == pytest.approx([top_k_accuracy_score(truth, scores, k=k) for k in range(1, 21)])


def test_a_rate_that_the_probes_cannot_tell_is_refused_and_never_zero():
    with pytest.raises(InputError, match="at least 1000 such probes"):
        check_fpir(0.001, 999)
    with pytest.raises(InputError, match="fpir"):
        threshold_at_fpir(np.zeros(99, "f4"), 0.01)
    assert check_fpir(0.001, 1000) == 1


def test_the_bootstrap_covers_the_spread_of_new_persons():
    # One picture per person: the persons are independent, and new draws show what the interval should be.
    points = []
    for seed in range(300):
        one = draw(b=400, q=300, seed=seed)
        points.append(operating_point(one, threshold_at_fpir(one.score_Q, 0.1)).tpir)
    one = draw(b=400, q=300, seed=1000)
    one = Searches(one.score_B, one.right_B, one.reached_B, np.arange(400), one.score_Q, np.arange(300))
    low, high = bootstrap_tpir(one, 0.1, np.random.default_rng(0))
    expected = np.subtract(*np.percentile(points, (97.5, 2.5)))
    assert high - low == pytest.approx(expected, rel=0.25)
    assert low < operating_point(one, threshold_at_fpir(one.score_Q, 0.1)).tpir < high


def test_pictures_of_one_person_are_drawn_together():
    one = draw(b=400, q=300)
    alone = Searches(one.score_B, one.right_B, one.reached_B, np.arange(400), one.score_Q, np.arange(300))
    order = np.argsort(one.score_B)  # persons whose pictures all score alike
    together = Searches(
        one.score_B[order], one.right_B[order], one.reached_B[order], np.arange(400) // 20, one.score_Q, np.arange(300)
    )
    widths = [np.subtract(*bootstrap_tpir(x, 0.1, np.random.default_rng(0))[::-1]) for x in (alone, together)]
    assert widths[1] > 1.5 * widths[0]
    same = [bootstrap_tpir(alone, 0.1, np.random.default_rng(5)) for _ in range(2)]
    assert same[0] == same[1]
