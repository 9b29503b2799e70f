# SPDX-License-Identifier: MIT
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from made_up_run import fake_results

from experiments.reporting.methods import label_methods
from experiments.reporting.statistics import (
    Interval,
    holm,
    interval_note,
    mean_interval,
    paired_differences,
    sample_ratio,
    speedups,
)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_equals_scipy(count):
    values = np.random.default_rng(count).normal(0.3, 0.2, count)
    ours = mean_interval(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-8)
    assert ours.sign == (1 if theirs.low > 0 else -1 if theirs.high < 0 else 0)
    assert ours.p_value == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_splits_of_one_data_set_get_nadeau_and_bengios_interval():
    # Omniglot, three seeds, 4 test images to 12 training images: +0.92 [+0.15, +1.70] by Student's t.
    values = 0.92 + 0.312 * np.array([-1, 0, 1])
    plain, corrected = mean_interval(values), mean_interval(values, 4 / 12)
    assert (plain.low, plain.high, plain.sign) == (pytest.approx(0.145, abs=2e-3), pytest.approx(1.695, abs=2e-3), 1)
    assert (corrected.low, corrected.high) == (pytest.approx(-0.18, abs=5e-3), pytest.approx(2.02, abs=5e-3))
    assert corrected.sign == 0 and corrected.p_value > 0.05
    # The formula of the paper, with scipy's t: the variance factor is 1/n + n_test/n_train.
    values = np.random.default_rng(3).normal(0.5, 0.3, 5)
    scale = values.std(ddof=1) * math.sqrt(1 / 5 + 0.25)
    assert mean_interval(values, 0.25).high == pytest.approx(scipy.stats.t.interval(0.95, 4, values.mean(), scale)[1])
    t = values.mean() / scale
    assert mean_interval(values, 0.25).p_value == pytest.approx(2 * scipy.stats.t.sf(abs(t), 4))


def test_coverage_of_random_splits_is_near_the_stated_level_only_when_corrected():
    # Scores of n random splits have the correlation n_test / (n_test + n_train), the assumption of the correction.
    rng, n, share = np.random.default_rng(1), 5, 0.25
    covariance = (1 - share) * np.eye(n) + share
    draws = rng.multivariate_normal(np.full(n, 0.7), covariance, 2000)

    def coverage(ratio):
        return np.mean([i.low <= 0.7 <= i.high for i in (mean_interval(draw, ratio) for draw in draws)])

    assert coverage(share / (1 - share)) == pytest.approx(0.95, abs=0.015) and coverage(0.0) < 0.85


def test_holm_by_hand():
    # Corrected: 0.005 * 4 = 0.02, 0.01 * 3 = 0.03, 0.03 * 2 = 0.06, and 0.04 after it at least as much.
    p_values = [0.01, 0.04, 0.03, 0.005]
    intervals = [Interval(-1.0 if p == 0.01 else 1.0, 0.1, 1.9, 3, p, 1) for p in p_values]
    assert [one.sign for one in holm([*intervals, Interval(2.0, count=1)])] == [-1, 0, 0, 1, None]
    assert [one.sign for one in holm(intervals[1:2])] == [1]


def test_marks_of_a_table_hold_after_the_correction_over_all_its_comparisons():
    frame = fake_results(["d"], [1000], [0, 1, 2], scenarios=("ism", *(f"baseline_{i}" for i in range(12))))
    for metric in ("precision", "recall", "f1"):  # the same normal noise everywhere: no scenario differs from another
        frame[metric] = 90 + np.random.default_rng(0).normal(0, 1, len(frame))
    one = frame["scenario"] == "baseline_0"
    frame.loc[one, "f1"] = frame.loc[frame["scenario"] == "ism", "f1"].to_numpy() + [5.0, 5.001, 5.002]
    table = paired_differences(label_methods(frame), "ism")
    assert len(table) == 36
    found = table[[interval.sign != 0 for interval in table["interval"]]]
    assert list(zip(found["scenario"], found["metric"])) == [("baseline_0", "f1")]


def test_the_ratio_of_samples_is_read_assumed_or_zero_for_data_drawn_anew():
    frame = label_methods(fake_results(["synthetic"], [1000], [0, 1, 2]))
    assert sample_ratio(frame) == pytest.approx(1 / 3) and "1/n + 0.33" in interval_note(frame)
    assert "assumed" not in interval_note(frame)
    before = frame.assign(train_samples=math.nan, test_samples=math.nan)
    assert sample_ratio(before) == pytest.approx(1 / 3) and "0.2/0.6 is assumed" in interval_note(before)
    fewer = frame.assign(test_samples=1200.0)
    assert sample_ratio(fewer) == pytest.approx(0.1)
    # One data set for each seed: independent. Fewer data sets than seeds, or one alone: not.
    anew = frame.assign(data_fingerprint=frame["seed"].map("data {:.0f}".format))
    assert sample_ratio(anew) == 0 and interval_note(anew).startswith("95 % Student t interval")
    assert sample_ratio(frame.assign(data_fingerprint="data 0")) == pytest.approx(1 / 3)
    assert sample_ratio(anew[anew["seed"] == 0]) == pytest.approx(1 / 3)


def test_a_baseline_has_the_samples_of_its_place():
    frame = fake_results(["d"], [1000, 2000], [0, 1])
    frame.loc[frame["scenario"] == "knn", ["train_samples", "test_samples"]] = math.nan
    labelled = label_methods(frame)
    assert (labelled["train_samples"] == 12 * labelled["n_identities"]).all()


def test_interval_by_hand():
    # mean 2, sd 1, t(0.975, 2) = 4.3027 from the tables: 2 +- 4.3027 / sqrt(3) = 2 +- 2.4841
    interval = mean_interval([1, 2, 3, math.nan])
    assert (interval.mean, interval.count) == (2, 3)
    assert (interval.low, interval.high) == pytest.approx((-0.4841, 4.4841), abs=1e-4)


def test_one_value_has_no_interval_and_no_sign():
    one, none = mean_interval([0.4]), mean_interval([])
    assert one.mean == 0.4 and math.isnan(one.low) and not one.known and one.sign is None
    assert math.isnan(none.mean) and none.count == 0


def test_equal_scenarios_differ_by_exactly_nothing():
    # m = 1 makes clustered, ISM and no distribution equal; 0.1 + 0.2 - 0.3 is 5.6e-17, which is no difference
    interval = mean_interval([0.1 + 0.2 - 0.3] * 3)
    assert interval.mean == 0 and interval.sign == 0


def test_coverage_is_as_stated():
    rng = np.random.default_rng(0)
    hits = [i.low <= 1.0 <= i.high for i in (mean_interval(rng.normal(1.0, 2.0, 4)) for _ in range(2000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)  # three standard errors of 2,000 trials


def test_differences_pair_the_seeds():
    frame = label_methods(fake_results(["d"], [1000], [0, 1, 2, 3]))
    # The order of the rows must not matter, nor a seed that only one of the two has.
    shuffled = frame.sample(frac=1, random_state=1)
    shuffled = shuffled[~((shuffled["scenario"] == "ism") & (shuffled["seed"] == 3))]
    table = paired_differences(shuffled, "ism").set_index(["scenario", "metric"])["interval"]
    wide = frame[frame["seed"] < 3].pivot(index="seed", columns="scenario", values="f1")
    theirs = scipy.stats.ttest_rel(wide["clustered_nearest"], wide["ism"]).confidence_interval(0.95)
    ours = table["clustered_nearest", "f1"]
    assert ours.count == 3
    # 4 test images to 12 training images: the variance factor is 2/3, twice Student's 1/3.
    assert ours.high - ours.low == pytest.approx(math.sqrt(2) * (theirs.high - theirs.low))
    assert ours.high + ours.low == pytest.approx(theirs.high + theirs.low)
    assert "ism" not in table.index.get_level_values("scenario")


def f1_differences(frame):
    table = paired_differences(frame, "ism")
    return table[table["metric"] == "f1"].set_index("method")["interval"]


def test_differences_of_one_reference_to_many_losses_and_of_many_to_many():
    arcface = fake_results(["d"], [1000], [0, 1], loss="arcface")
    cosface = fake_results(["d"], [1000], [0, 1], loss="cosface")
    cosface[["precision", "recall", "f1"]] -= 5.0
    both = label_methods(pd.concat([arcface, cosface[cosface["scenario"] != "knn"]]))
    table = f1_differences(both)
    # With an ISM of each loss, each is compared with its own: the 5 points cancel.
    same = [table[f"Clustered + nearest class [loss={loss}]"].mean for loss in ("arcface", "cosface")]
    assert same[0] == pytest.approx(same[1])
    # KNN has no loss and so no partner among two.
    assert not any(method.startswith("KNN") for method in table.index)
    # With the one ISM there is, a new loss is compared with that: the 5 points show.
    one = label_methods(pd.concat([arcface, cosface[cosface["scenario"] == "clustered_nearest"]]))
    table = f1_differences(one)
    names = ["Clustered + nearest class [loss=arcface]", "Clustered + nearest class [loss=cosface]"]
    assert table[names[0]].mean - table[names[1]].mean == pytest.approx(5.0)


def test_speedup_is_the_papers_and_stays_within_a_run():
    # N = 10,000, m = 5 of the paper's Table 3: 71.017 s against 18.208 s serial and 3.652 s parallel
    frame = fake_results(["d"], [10000], [0], scenarios=("no_distribution", "clustered_nearest"))
    frame["epoch_seconds_serial"] = [71.017, 18.208]
    frame["epoch_seconds_parallel"] = [71.017, 3.652]
    slow = frame.assign(run="slow", epoch_seconds_serial=frame["epoch_seconds_serial"] * 100, seed=1)
    times = speedups(label_methods(pd.concat([frame.assign(run="fast"), slow]))).set_index(["run", "scenario"])
    # (the paper divides unrounded seconds: 19.446 and 3.900)
    assert times.at[("fast", "clustered_nearest"), "speedup_serial"] == pytest.approx(3.900, abs=5e-4)
    assert times.at[("fast", "clustered_nearest"), "speedup_parallel"] == pytest.approx(19.446, abs=5e-3)
    assert times.at[("slow", "clustered_nearest"), "speedup_serial"] == pytest.approx(3.900, abs=5e-4)
    assert times.at[("fast", "no_distribution"), "speedup_serial"] == 1


def test_speedup_is_a_ratio_of_means_not_a_mean_of_ratios():
    frame = fake_results(["d"], [1000], [0, 1], scenarios=("no_distribution", "ism"))
    frame["epoch_seconds_serial"] = [10.0, 1.0, 20.0, 9.0]
    assert speedups(label_methods(frame)).set_index("scenario").at["ism", "speedup_serial"] == 15 / 5
