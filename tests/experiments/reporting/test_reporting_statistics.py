# SPDX-License-Identifier: MIT
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from made_up_run import fake_results

from experiments.reporting.methods import label_methods
from experiments.reporting.statistics import mean_interval, paired_differences, speedups


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_equals_scipy(count):
    values = np.random.default_rng(count).normal(0.3, 0.2, count)
    ours = mean_interval(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-8)
    assert ours.sign == (1 if theirs.low > 0 else -1 if theirs.high < 0 else 0)


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
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-8)
    assert "ism" not in table.index.get_level_values("scenario")


def test_differences_of_one_reference_to_many_losses_and_of_many_to_many():
    arcface = fake_results(["d"], [1000], [0, 1], loss="arcface")
    cosface = fake_results(["d"], [1000], [0, 1], loss="cosface")
    cosface[["precision", "recall", "f1"]] -= 5.0
    both = label_methods(pd.concat([arcface, cosface[cosface["scenario"] != "knn"]]))
    table = paired_differences(both, "ism", ("f1",)).set_index("method")["interval"]
    # With an ISM of each loss, each is compared with its own: the 5 points cancel.
    same = [table[f"Clustered + nearest class [loss={loss}]"].mean for loss in ("arcface", "cosface")]
    assert same[0] == pytest.approx(same[1])
    # KNN has no loss and so no partner among two.
    assert not any(method.startswith("KNN") for method in table.index)
    # With the one ISM there is, a new loss is compared with that: the 5 points show.
    one = label_methods(pd.concat([arcface, cosface[cosface["scenario"] == "clustered_nearest"]]))
    table = paired_differences(one, "ism", ("f1",)).set_index("method")["interval"]
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
