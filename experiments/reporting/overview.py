# SPDX-License-Identifier: MIT
"""The comparison in one table, a row per scenario: what a dashboard shows first."""

import pandas as pd

from experiments.reporting.methods import label_methods
from experiments.reporting.statistics import paired_differences, speedups
from experiments.reporting.tables import summary

_KEY = ["data", "n_identities", "method"]
_METRICS = ("accuracy", "precision", "recall", "f1")
_TIMES = {
    "epoch_seconds_serial": "epoch_seconds_serial", "epoch_seconds_parallel": "epoch_seconds_parallel",
    "train_seconds": "train_seconds", "query_microseconds": "query_microseconds", "peak_memory_mb": "peak_memory_mib",
    "speedup_serial": "speedup_serial_times", "speedup_parallel": "speedup_parallel_times",
}  # fmt: skip


def overview(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, the paired difference to ISM (or, without ISM, to no distribution) and the costs.

    Args:
        results: rows of results.csv of a comparison; `run` may be missing.

    Returns:
        One row for each data set, N and method. Units stand in the names of the columns: `_percent`, `_points`,
        `_seconds`, `_microseconds`, `_mib`, `_times`; NaN where a number does not apply.
    """
    frame = label_methods(results)
    table = summary(frame, _METRICS)
    table = table.rename(columns={name: f"{name}_percent" for name in _METRICS})
    table = table.rename(columns={f"{name}_sd": f"{name}_sd_points" for name in _METRICS})
    reference = "ism" if "ism" in set(frame["scenario"]) else "no_distribution"
    differences = paired_differences(frame, reference, ("f1",))
    places = pd.MultiIndex.from_frame(table[_KEY])
    for name, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
        values = [getattr(interval, part) for interval in differences["interval"]]
        found = pd.Series(values, pd.MultiIndex.from_frame(differences[_KEY]), dtype=float)
        table[f"f1_minus_{reference}{name}_points"] = found.reindex(places).to_numpy()
    costs = speedups(frame).groupby(_KEY, sort=False)[list(_TIMES)].mean().reindex(places)
    for column, name in _TIMES.items():
        table[name] = costs[column].to_numpy()
    return table
