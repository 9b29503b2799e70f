# SPDX-License-Identifier: MIT
"""Means over seeds, and paired differences with Student's t interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.reporting.columns import COSTS, scores

LEVEL = 0.95
# Two equal accuracies may differ by a rounding error after a mean; no accuracy of ours resolves a billionth.
_DECIMALS = 9


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Args:
        mean: NaN where there is no value.
        low, high: bounds, NaN where there are fewer than two values.
        count: how many values the mean is of.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there is an interval at all (two values or more)."""
        return self.count >= 2

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval lies above or below 0, 0 where it includes 0, None without an interval."""
        if not self.known:
            return None
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


NO_INTERVAL = Interval(math.nan, math.nan, math.nan, 0)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of n independent values, NaN left out, with Student's 95 % t interval: mean +- t(n-1) sd / sqrt(n).

    One value says nothing about spread: the bounds are NaN for n < 2.

    >>> mean_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484137712, high=4.484137712, count=3)
    """
    array = np.asarray(values, dtype=float)
    array = array[~np.isnan(array)]
    count = len(array)
    if count == 0:
        return NO_INTERVAL
    mean = float(array.mean())
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2) * array.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Interval(round(mean, _DECIMALS), round(mean - half, _DECIMALS), round(mean + half, _DECIMALS), count)


def matching_columns(frame: pd.DataFrame, reference: str) -> list[str]:
    """The columns that a row must share with its reference row.

    Data set, extractor, N and seed always; m, loss and initialisation only where the reference scenario itself was run
    with several of them, so that a new loss is still compared with the one reference there is.
    """
    place = ["dataset", "extractor", "n_identities"]
    rows = frame[frame["scenario"] == reference].groupby(place)
    varied = [c for c in ("n_subnets", "loss", "init") if (rows[c].nunique(dropna=False) > 1).any()]
    return [*place, *varied]


def paired_differences(frame: pd.DataFrame, reference: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """The difference of every scenario to a reference scenario, seed by seed.

    Args:
        frame: rows of results.csv with the columns `data` and `method` (`methods.label_methods`).
        reference: the scenario to subtract, such as "ism".
        metrics: names of columns; None for `columns.scores`.

    Returns:
        One row for each data set, N, method and metric: data, n_identities, method, scenario, metric and `interval`
        (an `Interval` in points; positive: better than the reference). Without rows where nothing can be paired.
    """
    keys = [*matching_columns(frame, reference), "seed"]
    metrics = [column.name for column in scores(frame)] if metrics is None else metrics
    base = frame.loc[frame["scenario"] == reference, [*keys, *metrics]]
    # What still occurs twice (the reference with two routers, say) has no one partner to be paired with.
    base = base[~base.duplicated(keys, keep=False)]
    pairs = frame[frame["scenario"] != reference].merge(base, on=keys, suffixes=("", "_reference"))
    rows = []
    for (data, n_identities, method), group in pairs.groupby(["data", "n_identities", "method"], sort=False):
        for metric in metrics:
            interval = mean_interval(group[metric] - group[f"{metric}_reference"])
            if interval.count:
                rows.append((data, n_identities, method, group["scenario"].iloc[0], metric, interval))
    return pd.DataFrame(rows, columns=["data", "n_identities", "method", "scenario", "metric", "interval"])


def speedups(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds per epoch of each method and how many times faster that is than the undistributed network.

    A speed-up is a ratio of means over seeds, taken within one run, as two runs may stem from two machines.

    Args:
        frame: rows of results.csv with `run`, `data` and `method`.

    Returns:
        One row for each run, data set, N and method, with the means of the time, memory and size columns, `serial_sd`,
        `parallel_sd`, `seeds`, and `speedup_serial`, `speedup_parallel` (NaN without no_distribution in the same run).
    """
    keys = ["run", *matching_columns(frame, "no_distribution")]
    base = frame[frame["scenario"] == "no_distribution"].groupby(keys, dropna=False)["epoch_seconds_serial"].mean()
    frame = frame.merge(base.rename("reference_seconds"), left_on=keys, right_index=True, how="left")
    group = frame.groupby(["run", "data", "n_identities", "method"], sort=False)
    table = group[["n_subnets", *(column.name for column in COSTS), "reference_seconds"]].mean()
    table["seeds"] = group["seed"].nunique()
    for kind in ("serial", "parallel"):
        seconds = table[f"epoch_seconds_{kind}"]
        table[f"{kind}_sd"] = group[f"epoch_seconds_{kind}"].std(ddof=1)
        table[f"speedup_{kind}"] = table["reference_seconds"] / seconds.where(seconds > 0)
    return table.join(group["scenario"].first()).reset_index()
