# SPDX-License-Identifier: MIT
"""The comparison in one table, a row per scenario, for dashboards."""

import pandas as pd

from experiments.reporting.columns import KNOWN, MEASURED, added, metrics
from experiments.reporting.methods import label_methods
from experiments.reporting.statistics import SETTING, means_over_seeds, paired_differences, speedups

_COSTS = {column.name: column.key() for column in MEASURED} | {
    f"speedup_{way}": f"speedup_{way}_times" for way in ("serial", "parallel")
}


def summary_table(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, the paired difference to ISM (or, without ISM, to no distribution) and the costs.

    Returns:
        One row for each data set, N and method. Units stand in the names of the columns: `_percent`, `_points`,
        `_seconds`, `_microseconds`, `_mb`, `_times`; NaN if a number does not apply.
    """
    frame = label_methods(results)
    columns = metrics(frame)
    table = means_over_seeds(frame, [column.name for column in columns])
    table = table.rename(columns={f"{one.name}{part}": one.key(part) for one in columns for part in ("", "_sd")})
    reference = "ism" if "ism" in set(frame["scenario"]) else "no_distribution"
    places = pd.MultiIndex.from_frame(table[SETTING])
    differences = paired_differences(frame, reference).set_index(SETTING)
    for one in (KNOWN["f1"], *added(frame)):
        intervals = differences.loc[differences["metric"] == one.name, "interval"]
        for name, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
            found = intervals.map(lambda interval, part=part: getattr(interval, part)).astype(float)
            table[one.key(f"_minus_{reference}{name}")] = found.reindex(places).to_numpy()
    costs = speedups(frame).groupby(SETTING, sort=False)[list(_COSTS)].mean().reindex(places)
    return table.assign(**{name: costs[column].to_numpy() for column, name in _COSTS.items()})
