# SPDX-License-Identifier: MIT
"""The paper's Tables 1 to 3 (Ahmadi & Dianat 2024) and the paired differences, from labelled rows of results.csv."""

from collections.abc import Iterable
from functools import partial

import pandas as pd

from experiments.reporting import wording
from experiments.reporting.columns import COSTS, KNOWN, ROUTING, Column, scores
from experiments.reporting.document import PLACE, Cell, Table, number_cell, place_table, written
from experiments.reporting.methods import (
    Look,
    data_title,
    known_first,
    looks,
    method_order,
    partitioner_title,
    reference_title,
    router_title,
)
from experiments.reporting.statistics import NO_INTERVAL, paired_differences, speedups

SETTING = ["data", "n_identities", "method"]
COSTS_SHOWN = tuple(column for column in COSTS if not column.name.startswith("epoch_seconds"))  # beside the speed-ups
PLUS_MINUS = "± is the sample standard deviation over seeds"
TONES = {1: "up", -1: "down", 0: "flat", None: ""}
SIGN_NOTE = (
    "Brackets: 95 % Student t interval of the mean difference, paired by seed, not corrected for the number of "
    "comparisons. ▲ lies above 0, ▼ below, ≈ includes 0; a bare number has one seed and so no interval."
)


def summary(frame: pd.DataFrame, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds.

    Args:
        frame: labelled rows (`methods.label_methods`).
        columns: what to summarise; None for `columns.scores`.

    Returns:
        One row for each data set, N and method, in the frame's order: `data`, `n_identities`, `method`, `scenario`,
        `n_subnets`, `seeds`, and `<column>` (mean) and `<column>_sd` (NaN for one seed).
    """
    group = frame.groupby(SETTING, sort=False)
    table = group[["scenario", "n_subnets"]].first()
    table["seeds"] = group["seed"].nunique()
    for column in columns or [score.name for score in scores(frame)]:
        table[column] = group[column].mean()
        table[f"{column}_sd"] = group[column].std(ddof=1)
    return table.reset_index()


def score_headings(columns: Iterable[Column]) -> list[str]:
    """Headings of scores in a table that says it is in percent: others have their unit."""
    return [column.title or column.name if column.unit == "percent" else column.heading for column in columns]


def _place(row: pd.Series, look: Look) -> list[Cell]:
    counts = [written(row["n_identities"]), written(row["n_subnets"])]
    return [Cell(row["method"], colour=look.colour), Cell(row["data"]), *counts]


def cluster_accuracy_table(frame: pd.DataFrame, routing: pd.DataFrame | None = None) -> Table | None:
    """Table 1: share of samples routed to the cluster of their own class, by representative and partition.

    Args:
        frame: labelled rows; used where there is no routing table. A row counts for its own partitioner and router.

    Returns:
        The table, or None where no row has a cluster accuracy.
    """
    values = [column.name for column in ROUTING]
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
    partitioners = known_first(rows["partitioner"], ("random", "kmeans"))
    routers = known_first(rows["router"], ("cluster_mean", "max_output", "nearest_class"))
    groups = sorted(rows.groupby(keys), key=lambda one: (*one[0][:3], routers.index(one[0][3])))
    body, counts = [], []
    for (data, n_identities, n_subnets, router), here in groups:
        cells = [Cell(router_title(router)), Cell(data), written(n_identities), written(n_subnets)]
        for partitioner in partitioners:
            for value in values:
                numbers = here.loc[here["partitioner"] == partitioner, value].dropna()
                counts += [len(numbers)] if len(numbers) else []
                cells.append(written(numbers.mean(), partial(wording.spread, sd=numbers.std(ddof=1))))
        body.append(cells)
    headings = [f"{partitioner_title(p)}, {side.title}" for p in partitioners for side in ROUTING]
    return place_table(
        "Table 1. Cluster accuracy (%)",
        ("Cluster representative", *PLACE[:3], *headings),
        body,
        f"Share of samples routed to the cluster of their own class. {PLUS_MINUS} ({wording.seeds_phrase(counts)}).",
        [key[:3] for key, _ in groups],
    )


def scores_table(frame: pd.DataFrame) -> Table:
    """Table 2: macro precision, recall and F1 of each scenario and further metrics, mean and spread over seeds."""
    means, look, columns = summary(frame), looks(frame), scores(frame)
    sign = {column.name: 1 if column.higher_is_better else -1 for column in columns}
    signed = means[list(sign)] * pd.Series(sign)
    best = signed >= signed.groupby([means["data"], means["n_identities"]]).transform("max") - 1e-9
    body = []
    for i, row in means.iterrows():
        cells = _place(row, look[row["method"]])
        for one in columns:
            text = wording.spread(row[one.name], row[f"{one.name}_sd"], one.digits or 0)
            cells.append(number_cell(text, row[one.name], "best" if best.at[i, one.name] else ""))
        body.append([*cells, written(row["seeds"])])
    seeds = wording.seeds_phrase(list(means["seeds"]))
    note = (
        f"Precision, recall and F1 are macro averages over identities. {PLUS_MINUS} ({seeds}; one seed has no spread). "
        "Bold: the best mean for its data set and N, which need not be clearly the best; see the differences."
    )
    headings = ("Scenario", *PLACE[:3], *score_headings(columns), "Seeds")
    places = list(zip(means["data"], means["n_identities"], strict=True))
    return place_table("Table 2. Precision, recall and F1 (%)", headings, body, note, places)


def paper_layout_table(frame: pd.DataFrame) -> Table:
    """Table 2 as the paper prints it: a row for each data set and N, a column for each scenario."""
    names = ["precision", "recall", "f1"]
    means, methods = summary(frame, names), method_order(frame)
    body = []
    for (data, n_identities), rows in means.groupby(["data", "n_identities"], sort=False):
        cells = [Cell(data), written(n_identities)]
        for _, values in rows.set_index("method")[names].reindex(methods).iterrows():
            run = values.name in set(rows["method"])
            text = " / ".join(wording.percent(value) for value in values) if run else wording.NOTHING
            cells.append(number_cell(text, values["f1"]))
        body.append(tuple(cells))
    note = "Means over seeds. A column sorts by F1."
    title = "Table 2 in the paper's layout: precision / recall / F1 (%)"
    return Table(title, ("Data", "N", *methods), tuple(body), note)


def differences_table(frame: pd.DataFrame, reference: str) -> Table | None:
    """Difference of each scenario to a reference scenario, paired by seed, with its 95 % interval.

    Returns:
        The table, or None where nothing can be paired with the reference.
    """
    differences = paired_differences(frame, reference)
    if differences.empty:
        return None
    look, columns = looks(frame), scores(frame)
    means = summary(frame).set_index(SETTING, drop=False)
    body, places, counts = [], [], []
    for key, rows in differences.groupby(SETTING, sort=False):
        intervals = rows.set_index("metric")["interval"]
        cells = _place(means.loc[key], look[key[2]])
        for one in columns:
            found = intervals.get(one.name, NO_INTERVAL)
            cells.append(number_cell(wording.difference(found, one.digits or 0), found.mean, TONES[found.sign]))
        counts.append(max(interval.count for interval in intervals))
        body.append([*cells, written(counts[-1])])
        places.append(key[:2])
    title = reference_title(reference)
    return place_table(
        f"Difference to {title} (points)",
        ("Scenario", *PLACE[:3], *score_headings(columns), "Pairs"),
        body,
        f"Scenario minus {title} of the same seed; {wording.seeds_phrase(counts)}. {SIGN_NOTE}",
        places,
    )


def times_table(frame: pd.DataFrame) -> Table:
    """Table 3: seconds per epoch of all sub-networks, serial and parallel, with speed-up over no distribution."""
    times, look = speedups(frame), looks(frame)
    seeds = wording.seeds_phrase(list(times["seeds"]))
    headings = ["Scenario", *PLACE]
    for way in ("serial", "parallel"):
        headings += [KNOWN[f"epoch_seconds_{way}"].heading, f"Speed-up, {way}"]
    body = []
    for _, row in times.iterrows():
        cells = [*_place(row, look[row["method"]]), Cell(row["run"] or wording.NOTHING)]
        for way in ("serial", "parallel"):
            cells.append(written(row[f"epoch_seconds_{way}"], partial(wording.seconds, sd=row[f"{way}_sd"])))
            cells.append(written(row[f"speedup_{way}"], wording.three_digits))
        body.append([*cells, *(written(row[one.name], partial(wording.any_number, one.name)) for one in COSTS_SHOWN)])
    return place_table(
        "Table 3. Seconds per epoch of all sub-networks",
        [*headings, *(column.heading for column in COSTS_SHOWN)],
        body,
        "Serial: one sub-network after the other. Parallel: each on a device of its own, so the slowest counts. "
        "Speed-up: mean seconds of no distribution over the scenario's mean, from the same run. "
        f"Scenarios that share a partition share its training. {PLUS_MINUS} ({seeds}); "
        "values without ± are means. A dash: does not apply or was not measured.",
        list(zip(times["run"], times["data"], times["n_identities"], strict=True)),
    )
