# SPDX-License-Identifier: MIT
"""The comparison in one table, a row per scenario: what a dashboard shows first."""

import pandas as pd

from experiments.reporting.columns import KNOWN, MEASURED, added, metrics
from experiments.reporting.methods import label_methods
from experiments.reporting.statistics import paired_differences, speedups
from experiments.reporting.tables import SETTING, summary

_COSTS = {column.name: column.key() for column in MEASURED} | {
    f"speedup_{way}": f"speedup_{way}_times" for way in ("serial", "parallel")
}


def overview(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, the paired difference to ISM (or, without ISM, to no distribution) and the costs.

    Args:
        results: rows of results.csv of a comparison; `run` may be missing.

    Returns:
        One row for each data set, N and method. Units stand in the names of the columns: `_percent`, `_points`,
        `_seconds`, `_microseconds`, `_mb`, `_times`; NaN where a number does not apply.
    """
    frame = label_methods(results)
    columns = metrics(frame)
    table = summary(frame, [column.name for column in columns])
    table = table.rename(columns={f"{one.name}{part}": one.key(part) for one in columns for part in ("", "_sd")})
    reference = "ism" if "ism" in set(frame["scenario"]) else "no_distribution"
    places = pd.MultiIndex.from_frame(table[SETTING])
    for one in (KNOWN["f1"], *added(frame)):
        differences = paired_differences(frame, reference, (one.name,))
        for name, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
            values = [getattr(interval, part) for interval in differences["interval"]]
            found = pd.Series(values, pd.MultiIndex.from_frame(differences[SETTING]), dtype=float)
            table[one.key(f"_minus_{reference}{name}")] = found.reindex(places).to_numpy()
    costs = speedups(frame).groupby(SETTING, sort=False)[list(_COSTS)].mean().reindex(places)
    for column, name in _COSTS.items():
        table[name] = costs[column].to_numpy()
    return table
