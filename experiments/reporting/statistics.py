# SPDX-License-Identifier: MIT
"""Means over seeds, confidence intervals of means and of paired differences, and speed-ups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from experiments.reporting.columns import COSTS, scores

SETTING = ["data", "n_identities", "method"]
LEVEL = 0.95
ASSUMED_RATIO = 0.2 / 0.6  # test to training samples, for runs that do not say how many they had
# Two equal accuracies may differ by a rounding error after a mean; no accuracy of ours resolves a billionth.
_DECIMALS = 9


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; bounds, p-value and sign are unknown for fewer than two values."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0  # of the values
    p_value: float = math.nan  # two-sided, for a true mean of 0
    sign: int | None = None  # 1 or -1 if the mean differs significantly from 0, else 0

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return self.count >= 2


def mean_interval(values: Sequence[float], ratio: float = 0.0) -> Interval:
    """The mean of n values, NaN left out, with its 95 % t interval: mean +- t(n-1) sd sqrt(1/n + ratio).

    Args:
        ratio: 0 for independent values (Student's interval). Values from n random splits of one data set are
            correlated: for them the number of test samples over that of training samples, which gives the corrected
            resampled t interval of Nadeau & Bengio (Machine Learning 52, 2003).
    """
    array = pd.Series(values, dtype=float).dropna().to_numpy()
    n = len(array)
    if n < 2:
        return Interval(round(float(array[0]), _DECIMALS) if n else math.nan, count=n)
    mean = round(float(array.mean()), _DECIMALS)
    error = float(array.std(ddof=1)) * math.sqrt(1 / n + ratio)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    p_value = 2 * float(stdtr(n - 1, -abs(mean) / error)) if error else float(mean == 0)
    sign = int(np.sign(mean)) if p_value <= 1 - LEVEL else 0
    return Interval(mean, round(mean - half, _DECIMALS), round(mean + half, _DECIMALS), n, p_value, sign)


def holm(intervals: Sequence[Interval]) -> list[Interval]:
    """The same intervals, with signs that hold after the correction of Holm (Scand. J. Statist. 6, 1979) over all."""
    order = sorted((i for i, one in enumerate(intervals) if one.known), key=lambda i: intervals[i].p_value)
    corrected, largest = list(intervals), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, intervals[i].p_value * (len(order) - rank))
        sign = int(np.sign(intervals[i].mean)) if largest <= 1 - LEVEL else 0
        corrected[i] = replace(intervals[i], sign=sign)
    return corrected


def sample_ratio(rows: pd.DataFrame) -> float:
    """The `ratio` of `mean_interval` for rows of results.csv; 0 if each seed has a data set of its own."""
    seeds = rows["seed"].nunique()
    if seeds > 1 and rows.loc[rows["data_fingerprint"] != "", "data_fingerprint"].nunique() >= seeds:
        return 0.0
    counts = rows[["test_samples", "train_samples"]].dropna().sum()
    return float(counts["test_samples"] / counts["train_samples"]) if counts["train_samples"] else ASSUMED_RATIO


def interval_note(frame: pd.DataFrame) -> str:
    """The kind of interval that `mean_interval` gives the rows of a table, as captions state it."""
    places = [rows for _, rows in frame.groupby(["data", "n_identities"], sort=False)]
    ratios = [round(sample_ratio(rows), 2) for rows in places]
    if not any(ratios):
        return "95 % Student t interval; each seed has a data set of its own"
    shown = f"{min(ratios):.2f}" if min(ratios) == max(ratios) else f"{min(ratios):.2f} to {max(ratios):.2f}"
    note = "95 % corrected resampled t interval (Nadeau & Bengio 2003): seeds split the same images, so the variance "
    note += f"factor is 1/n + n_test/n_train = 1/n + {shown}"
    if any(rows["train_samples"].isna().all() for rows in places):
        note += " (the run does not say how many samples it had: 0.2/0.6 is assumed)"
    return note


def means_over_seeds(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean and sample standard deviation (NaN for one seed) of columns, by default `columns.scores`, over seeds.

    Returns:
        One row for each data set, N and method, in the order of the labelled frame: `data`, `n_identities`, `method`,
        `scenario`, `n_subnets`, `seeds`, and for each column `<column>` and `<column>_sd`.
    """
    group = frame.groupby(SETTING, sort=False)
    table = group[["scenario", "n_subnets"]].first()
    table["seeds"] = group["seed"].nunique()
    for column in columns or [score.name for score in scores(frame)]:
        table[column] = group[column].mean()
        table[f"{column}_sd"] = group[column].std(ddof=1)
    return table.reset_index()


def matching_columns(frame: pd.DataFrame, reference: str) -> list[str]:
    """The columns, beside the seed, that a row must share with its reference row.

    Data set, extractor and N always; m, loss and initialisation only if the reference scenario itself was run with
    several of them, so that a new loss is still compared with the one reference there is.
    """
    place = ["dataset", "extractor", "n_identities"]
    rows = frame[frame["scenario"] == reference].groupby(place)
    varied = [c for c in ("n_subnets", "loss", "init") if (rows[c].nunique(dropna=False) > 1).any()]
    return [*place, *varied]


def paired_differences(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The difference of every scenario of a labelled frame to a reference scenario, seed by seed.

    Returns:
        One row for each data set, N, method and metric of `columns.scores`: data, n_identities, method, scenario,
        metric, interval (points, scenario minus reference; signs after Holm's correction over all rows). No rows if
        nothing can be paired.
    """
    keys = [*matching_columns(frame, reference), "seed"]
    metrics = [column.name for column in scores(frame)]
    base = frame.loc[frame["scenario"] == reference, [*keys, *metrics]]
    # What still occurs twice (the reference with two routers, say) has no one partner to be paired with.
    base = base[~base.duplicated(keys, keep=False)]
    pairs = frame[frame["scenario"] != reference].merge(base, on=keys, suffixes=("", "_reference"))
    rows = []
    for key, group in pairs.groupby(SETTING, sort=False):
        ratio = sample_ratio(group)
        for metric in metrics:
            interval = mean_interval(group[metric] - group[f"{metric}_reference"], ratio)
            if interval.count:
                rows.append((*key, group["scenario"].iloc[0], metric, interval))
    table = pd.DataFrame(rows, columns=[*SETTING, "scenario", "metric", "interval"])
    return table.assign(interval=pd.Series(holm(list(table["interval"])), table.index, dtype=object))


def speedups(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds per epoch of each method and how many times faster that is than the undistributed network.

    A speed-up is a ratio of means over seeds, taken within one run, as two runs may stem from two machines.

    Returns:
        One row for each run, data set, N and method, with the means of the time, memory and size columns, `serial_sd`,
        `parallel_sd`, `seeds`, and `speedup_serial`, `speedup_parallel` (NaN without no_distribution in the same run).
    """
    keys = ["run", *matching_columns(frame, "no_distribution")]
    base = frame[frame["scenario"] == "no_distribution"].groupby(keys, dropna=False)["epoch_seconds_serial"].mean()
    frame = frame.merge(base.rename("reference_seconds"), left_on=keys, right_index=True, how="left")
    group = frame.groupby(["run", *SETTING], sort=False)
    table = group[["n_subnets", *(column.name for column in COSTS), "reference_seconds"]].mean()
    table["seeds"] = group["seed"].nunique()
    for kind in ("serial", "parallel"):
        seconds = table[f"epoch_seconds_{kind}"]
        table[f"{kind}_sd"] = group[f"epoch_seconds_{kind}"].std(ddof=1)
        table[f"speedup_{kind}"] = table["reference_seconds"] / seconds.where(seconds > 0)
    return table.join(group["scenario"].first()).reset_index()
