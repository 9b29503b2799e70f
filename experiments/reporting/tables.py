# SPDX-License-Identifier: MIT
"""The paper's Tables 1 to 3 (Ahmadi & Dianat 2024) and the paired differences, from labelled rows of results.csv."""

import math

import pandas as pd

from experiments.reporting import wording
from experiments.reporting.document import Cell, Table, drop_constant, group_starts, number_cell
from experiments.reporting.methods import (
    Look,
    data_title,
    looks,
    method_order,
    partitioner_title,
    reference_title,
    router_title,
)
from experiments.reporting.statistics import METRICS, Interval, paired_differences, speedups

METRIC_TITLES = {"precision": "Precision", "recall": "Recall", "f1": "F1", "accuracy": "Accuracy"}
PLACE = ("Data", "N", "m", "Run")
PLUS_MINUS = "± is the sample standard deviation over seeds"
TONES = {1: "up", -1: "down", 0: "flat", None: ""}
SIGN_NOTE = (
    "Brackets: 95 % Student t interval of the mean difference, paired by seed, not corrected for the number of "
    "comparisons. ▲ lies above 0, ▼ below, ≈ includes 0; a bare number has one seed and so no interval."
)


def summary(frame: pd.DataFrame, columns: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds.

    Args:
        frame: labelled rows (`methods.label_methods`).
        columns: what to summarise.

    Returns:
        One row for each data set, N and method, in the frame's order: `data`, `n_identities`, `method`, `scenario`,
        `n_subnets`, `seeds`, and `<column>` (mean) and `<column>_sd` (NaN for one seed).
    """
    group = frame.groupby(["data", "n_identities", "method"], sort=False)
    table = group[["scenario", "n_subnets"]].first()
    table["seeds"] = group["seed"].nunique()
    for column in columns:
        table[column] = group[column].mean()
        table[f"{column}_sd"] = group[column].std(ddof=1)
    return table.reset_index()


def _place(row: pd.Series, look: Look) -> list[Cell]:
    return [
        Cell(row["method"], colour=look.colour),
        Cell(row["data"]),
        number_cell(wording.whole(row["n_identities"]), row["n_identities"]),
        number_cell(wording.whole(row["n_subnets"]), row["n_subnets"]),
    ]


def cluster_accuracy_table(frame: pd.DataFrame, routing: pd.DataFrame | None = None) -> Table | None:
    """Table 1: share of samples routed to the cluster of their own class, by representative and partition.

    Args:
        frame: labelled rows; used where there is no routing table. A row counts for its own partitioner and router.
        routing: details/routing.csv.

    Returns:
        The table, or None where no row has a cluster accuracy.
    """
    values = ["cluster_accuracy_train", "cluster_accuracy_test"]
    if routing is not None:
        rows = routing.assign(data=routing["dataset"].map(data_title))
    else:
        rows = frame[frame["scenario"] != "no_distribution"]
    rows = rows[rows[values].notna().any(axis=1) & (rows["partitioner"] != "") & (rows["router"] != "")]
    if rows.empty:
        return None
    keys = ["data", "n_identities", "n_subnets", "router"]
    # Scenarios that share a partition and a router report the same routing: it counts once for each seed.
    rows = rows.groupby([*keys, "partitioner", "seed"], sort=False)[values].mean().reset_index()
    known = ["random", "kmeans"]
    partitioners = [p for p in known if p in set(rows["partitioner"])]
    partitioners += sorted(set(rows["partitioner"]) - set(known))
    representatives = ["cluster_mean", "max_output", "nearest_class"]
    rank = {name: i for i, name in enumerate(representatives)}
    places = sorted(rows.groupby(keys).groups, key=lambda key: (*key[:3], rank.get(key[3], len(rank)), key[3]))
    body, counts = [], []
    for place in places:
        here = rows[(rows[keys] == list(place)).all(axis=1)]
        cells = [
            Cell(router_title(place[3])),
            Cell(place[0]),
            number_cell(wording.whole(place[1]), place[1]),
            number_cell(wording.whole(place[2]), place[2]),
        ]
        for partitioner in partitioners:
            for value in values:
                numbers = here.loc[here["partitioner"] == partitioner, value].dropna()
                counts += [len(numbers)] if len(numbers) else []
                mean = float(numbers.mean()) if len(numbers) else math.nan
                cells.append(number_cell(wording.spread(mean, float(numbers.std(ddof=1))), mean))
        body.append(tuple(cells))
    headings = [f"{partitioner_title(p)}, {side}" for p in partitioners for side in ("train", "test")]
    table = Table(
        "Table 1. Cluster accuracy (%)",
        ("Cluster representative", *PLACE[:3], *headings),
        tuple(body),
        f"Share of samples routed to the cluster of their own class. {PLUS_MINUS} ({wording.seeds_phrase(counts)}).",
        group_starts([place[:3] for place in places]),
    )
    return drop_constant(table, PLACE)


def scores_table(frame: pd.DataFrame) -> Table:
    """Table 2: macro precision, recall and F1 of each scenario, mean and spread over seeds.

    Args:
        frame: labelled rows.
    """
    means, look = summary(frame), looks(frame)
    best = means.groupby(["data", "n_identities"])[list(METRICS)].transform("max")
    body = []
    for i, row in means.iterrows():
        scores = [
            number_cell(
                wording.spread(row[metric], row[f"{metric}_sd"]),
                row[metric],
                "best" if row[metric] >= best.at[i, metric] - 1e-9 else "",
            )
            for metric in METRICS
        ]
        body.append((*_place(row, look[row["method"]]), *scores, number_cell(str(row["seeds"]), row["seeds"])))
    seeds = wording.seeds_phrase(list(means["seeds"]))
    note = f"Macro averages over identities. {PLUS_MINUS} ({seeds}; one seed has no spread). "
    table = Table(
        "Table 2. Precision, recall and F1 (%)",
        ("Scenario", *PLACE[:3], *(METRIC_TITLES[m] for m in METRICS), "Seeds"),
        tuple(body),
        note
        + "Bold: the highest mean for its data set and N, which need not be clearly the best; see the differences.",
        group_starts(list(zip(means["data"], means["n_identities"], strict=True))),
    )
    return drop_constant(table, PLACE)


def paper_layout_table(frame: pd.DataFrame) -> Table:
    """Table 2 as the paper prints it: a row for each data set and N, a column for each scenario.

    Args:
        frame: labelled rows.
    """
    means, methods = summary(frame), method_order(frame)
    body = []
    for (data, n_identities), rows in means.groupby(["data", "n_identities"], sort=False):
        by_method = rows.set_index("method")
        cells = [Cell(data), number_cell(wording.whole(n_identities), n_identities)]
        for method in methods:
            if method not in by_method.index:
                cells.append(number_cell(wording.NOTHING, math.nan))
                continue
            values = by_method.loc[method, list(METRICS)]
            cells.append(number_cell(" / ".join(wording.percent(v) for v in values), values["f1"]))
        body.append(tuple(cells))
    return Table(
        "Table 2 in the paper's layout: precision / recall / F1 (%)",
        ("Data", "N", *methods),
        tuple(body),
        "Means over seeds. A column sorts by F1.",
    )


def differences_table(frame: pd.DataFrame, reference: str) -> Table | None:
    """Difference of each scenario to a reference scenario, paired by seed, with its 95 % interval.

    Args:
        frame: labelled rows.
        reference: the scenario that is subtracted.

    Returns:
        The table, or None where nothing can be paired with the reference.
    """
    differences = paired_differences(frame, reference)
    if differences.empty:
        return None
    means, look = summary(frame), looks(frame)
    place_of = means.set_index(["data", "n_identities", "method"])
    body, places, counts = [], [], []
    for key, rows in differences.groupby(["data", "n_identities", "method"], sort=False):
        intervals: dict[str, Interval] = dict(zip(rows["metric"], rows["interval"], strict=True))
        row = place_of.loc[key].copy()
        row["data"], row["n_identities"], row["method"] = key
        pairs = max(interval.count for interval in intervals.values())
        cells = [
            number_cell(wording.difference(intervals[m]), intervals[m].mean, TONES[intervals[m].sign])
            if m in intervals
            else number_cell(wording.NOTHING, math.nan)
            for m in METRICS
        ]
        body.append((*_place(row, look[key[2]]), *cells, number_cell(str(pairs), pairs)))
        places.append(key[:2])
        counts.append(pairs)
    title = reference_title(reference)
    table = Table(
        f"Difference to {title} (points)",
        ("Scenario", *PLACE[:3], *(METRIC_TITLES[m] for m in METRICS), "Pairs"),
        tuple(body),
        f"Scenario minus {title} of the same seed; {wording.seeds_phrase(counts)}. {SIGN_NOTE}",
        group_starts(places),
    )
    return drop_constant(table, PLACE)


def times_table(frame: pd.DataFrame) -> Table:
    """Table 3: seconds per epoch of all sub-networks, serial and parallel, with speed-up over no distribution.

    Args:
        frame: labelled rows.
    """
    times, look = speedups(frame), looks(frame)
    seeds = wording.seeds_phrase(list(times["seeds"]))
    body = []
    for _, row in times.iterrows():
        cells = _place(row, look[row["method"]])
        cells.insert(4, Cell(row["run"] or wording.NOTHING))
        cells += [
            number_cell(wording.seconds(row["epoch_seconds_serial"], row["serial_sd"]), row["epoch_seconds_serial"]),
            number_cell(wording.three_digits(row["speedup_serial"]), row["speedup_serial"]),
            number_cell(
                wording.seconds(row["epoch_seconds_parallel"], row["parallel_sd"]), row["epoch_seconds_parallel"]
            ),
            number_cell(wording.three_digits(row["speedup_parallel"]), row["speedup_parallel"]),
            number_cell(wording.any_number("epochs", row["epochs"]), row["epochs"]),
            number_cell(wording.seconds(row["train_seconds"]), row["train_seconds"]),
            number_cell(wording.three_digits(row["query_microseconds"]), row["query_microseconds"]),
            number_cell(wording.three_digits(row["peak_memory_mb"]), row["peak_memory_mb"]),
            number_cell(wording.whole(row["parameters"]), row["parameters"]),
        ]
        body.append(tuple(cells))
    table = Table(
        "Table 3. Seconds per epoch of all sub-networks",
        (
            "Scenario",
            *PLACE,
            "Serial (s)",
            "Speed-up, serial",
            "Parallel (s)",
            "Speed-up, parallel",
            "Epochs",
            "Training (s)",
            "Query (µs)",
            "Peak memory (MB)",
            "Parameters",
        ),
        tuple(body),
        "Serial: one sub-network after the other. Parallel: each on a device of its own, so the slowest counts. "
        "Speed-up: mean seconds of no distribution over the scenario's mean, from the same run. "
        f"Scenarios that share a partition share its training. {PLUS_MINUS} ({seeds}); "
        "values without ± are means. A dash: does not apply or was not measured.",
        group_starts(list(zip(times["run"], times["data"], times["n_identities"], strict=True))),
    )
    return drop_constant(table, PLACE)
