# SPDX-License-Identifier: MIT
"""The paper's Tables 1 to 3 (Ahmadi & Dianat 2024) and the paired differences, from labelled rows of results.csv."""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pandas as pd

from experiments.reporting import methods, number_formats, statistics
from experiments.reporting.columns import COSTS, KNOWN, ROUTING, Column, scores
from experiments.reporting.document import PLACE, TONES, Format, Table, TableCell, number_cell, place_table

MOST_OPEN_ROWS = 40
COSTS_SHOWN = tuple(column for column in COSTS if not column.name.startswith("epoch_seconds"))  # beside the speed-ups
PLUS_MINUS = "± is the sample standard deviation over seeds"


def score_headings(columns: Iterable[Column]) -> list[str]:
    """Headings of scores in a table whose caption says percent: other units are in the heading."""
    return [column.title or column.name if column.unit == "percent" else column.heading for column in columns]


def _place(table: pd.DataFrame, look: dict[str, methods.Look]) -> list[list]:
    """The columns that begin most tables: scenario with its swatch, data set, N and m."""
    methods = [TableCell(method, colour=look[method].colour) for method in table["method"]]
    return [methods, *(list(table[name]) for name in ("data", "n_identities", "n_subnets"))]


def frame_of(headings: Iterable[str], columns: Iterable[Iterable]) -> pd.DataFrame:
    """A frame of columns whose headings may repeat."""
    return pd.DataFrame(list(zip(*columns, strict=True)), columns=list(headings), dtype=object)


def cluster_accuracy_table(rows: pd.DataFrame) -> Table | None:
    """Table 1: share of samples routed to the cluster of their own class; None if no row has a cluster accuracy.

    Args:
        rows: details/routing.csv, or rows of results.csv, each of which counts for its own partitioner and router.
    """
    values = [column.name for column in ROUTING]
    rows = methods.with_data_title(rows)
    rows = rows[rows[values].notna().any(axis=1) & (rows["partitioner"] != "") & (rows["router"] != "")]
    if rows.empty:
        return None
    keys = ["data", "n_identities", "n_subnets", "router"]
    # Scenarios that share a partition and a router report the same routing: it counts once for each seed.
    rows = rows.groupby([*keys, "partitioner", "seed"], sort=False)[values].mean().reset_index()
    partitioners = methods.known_first(rows["partitioner"], ("random", "kmeans"))
    routers = methods.known_first(rows["router"], ("cluster_mean", "max_output", "nearest_class"))
    groups = sorted(rows.groupby(keys), key=lambda one: (*one[0][:3], routers.index(one[0][3])))
    body, counts = [], []
    for (data, n_identities, n_subnets, router), here in groups:
        cells = [methods.choice_title(router), data, n_identities, n_subnets]
        for partitioner in partitioners:
            for value in values:
                numbers = here.loc[here["partitioner"] == partitioner, value].dropna()
                counts += [len(numbers)] if len(numbers) else []
                cells.append(number_cell(number_formats.spread(numbers.mean(), numbers.std(ddof=1)), numbers.mean()))
        body.append(cells)
    headings = [f"{methods.choice_title(p)}, {side.title}" for p in partitioners for side in ROUTING]
    seeds = number_formats.seeds_phrase(counts)
    note = f"Share of samples routed to the cluster of their own class. {PLUS_MINUS} ({seeds})."
    frame = pd.DataFrame(body, columns=["Cluster representative", *PLACE[:3], *headings])
    return place_table("Table 1. Cluster accuracy (%)", frame, {}, note, [key[:3] for key, _ in groups])


def scores_table(frame: pd.DataFrame) -> Table:
    """Table 2: macro precision, recall and F1 of each scenario and further metrics, mean and spread over seeds."""
    means, look, columns = statistics.means_over_seeds(frame), methods.looks(frame), scores(frame)
    sign = {column.name: 1 if column.higher_is_better else -1 for column in columns}
    signed = means[list(sign)] * pd.Series(sign)
    best = signed >= signed.groupby([means["data"], means["n_identities"]]).transform("max") - 1e-9
    columns_shown = _place(means, look)
    for one in columns:
        tones, both = best[one.name].map({True: "best", False: ""}), zip(means[one.name], means[f"{one.name}_sd"])
        texts = [number_formats.spread(mean, sd, one.digits or 0) for mean, sd in both]
        columns_shown.append(list(map(number_cell, texts, means[one.name], tones)))
    seeds = number_formats.seeds_phrase(list(means["seeds"]))
    note = (
        f"Precision, recall and F1 are macro averages over identities. {PLUS_MINUS} ({seeds}; one seed has no spread). "
        "Bold: the best mean for its data set and N, which need not be significantly the best; see the differences."
    )
    headings = ("Scenario", *PLACE[:3], *score_headings(columns), "Seeds")
    shown = frame_of(headings, [*columns_shown, means["seeds"]])
    places = list(zip(means["data"], means["n_identities"], strict=True))
    return place_table("Table 2. Precision, recall and F1 (%)", shown, {}, note, places)


def paper_layout_table(frame: pd.DataFrame) -> Table:
    """Table 2 as the paper prints it: a row for each data set and N, a column for each scenario."""
    names, order, body = ["precision", "recall", "f1"], methods.method_order(frame), []
    means = statistics.means_over_seeds(frame, names)
    for (data, n_identities), rows in means.groupby(["data", "n_identities"], sort=False):
        values = rows.set_index("method")[names]
        texts = values.agg(lambda row: " / ".join(map(number_formats.percent, row)), axis=1)
        cells = map(number_cell, texts.reindex(order, fill_value=number_formats.NOTHING), values["f1"].reindex(order))
        body.append((TableCell(data), number_cell(number_formats.whole(n_identities), n_identities), *cells))
    title = "Table 2 in the paper's layout: precision / recall / F1 (%)"
    return Table(title, ("Data", "N", *order), tuple(body), "Means over seeds. A column sorts by F1.")


def both_score_tables(frame: pd.DataFrame) -> list[Table]:
    """Table 2 with spreads and in the paper's layout; the one that is harder to read is folded."""
    # Over many data sets and N the paper's layout is easier to read, unless it has too many columns.
    spreads, compact = scores_table(frame), paper_layout_table(frame)
    fold_spreads = len(spreads.rows) > MOST_OPEN_ROWS and frame["method"].nunique() <= methods.MOST_TOLD_APART
    return [replace(spreads, folded=fold_spreads), replace(compact, folded=not fold_spreads)]


def differences_table(frame: pd.DataFrame, reference: str) -> Table | None:
    """Differences to a reference scenario, paired by seed, with 95 % intervals; None if nothing can be paired."""
    differences = statistics.paired_differences(frame, reference)
    if differences.empty:
        return None
    columns, means = scores(frame), statistics.means_over_seeds(frame).set_index(statistics.SETTING, drop=False)
    groups = differences.groupby(statistics.SETTING, sort=False)
    intervals = {key: rows.set_index("metric")["interval"] for key, rows in groups}
    means = means.loc[[key for key in means.index if key in intervals]]
    shown = _place(means, methods.looks(frame))
    for one in columns:
        found = [intervals[key].get(one.name, statistics.Interval(math.nan)) for key in means.index]
        shown.append([number_cell(number_formats.difference(i, one.digits or 0), i.mean, TONES[i.sign]) for i in found])
    counts = [max(interval.count for interval in intervals[key]) for key in means.index]
    title, seeds = methods.reference_title(reference), number_formats.seeds_phrase(counts)
    note = (
        f"Scenario minus {title} of the same seed; {seeds}. Brackets: {statistics.interval_note(frame)}. ▲ above 0 and "
        f"▼ below 0 after Holm's correction over the {len(differences)} comparisons of this table; ≈ neither is shown. "
        "A bare number has one seed and so no interval."
    )
    table = frame_of(("Scenario", *PLACE[:3], *score_headings(columns), "Pairs"), [*shown, counts])
    places = [key[:2] for key in means.index]
    return place_table(f"Difference to {title} (points)", table, {}, note, places)


def times_table(frame: pd.DataFrame) -> Table:
    """Table 3: seconds per epoch of all sub-networks, serial and parallel, with speed-up over no distribution."""
    times = statistics.speedups(frame)
    columns = dict(zip(("Scenario", *PLACE[:3]), _place(times, methods.looks(frame)), strict=True))
    columns["Run"] = times["run"].replace("", number_formats.NOTHING)
    for way in ("serial", "parallel"):
        means = times[f"epoch_seconds_{way}"]
        texts = map(number_formats.seconds, means, times[f"{way}_sd"])
        columns[KNOWN[f"epoch_seconds_{way}"].heading] = list(map(number_cell, texts, means))
        columns[f"Speed-up, {way}"] = times[f"speedup_{way}"]
    formats: dict[str, Format] = dict.fromkeys(("Speed-up, serial", "Speed-up, parallel"), number_formats.three_digits)
    for one in COSTS_SHOWN:
        columns[one.heading], formats[one.heading] = times[one.name], partial(number_formats.any_number, one.name)
    seeds = number_formats.seeds_phrase(list(times["seeds"]))
    note = (
        "Serial: one sub-network after the other. Parallel: each on a device of its own, so the slowest counts. "
        "Speed-up: mean seconds of no distribution over the scenario's mean, from the same run. "
        f"Scenarios that share a partition share its training. {PLUS_MINUS} ({seeds}); values without ± are means. "
        "A dash: does not apply or was not measured."
    )
    groups = list(times[["run", "data", "n_identities"]].itertuples(index=False, name=None))
    title = "Table 3. Seconds per epoch of all sub-networks"
    return place_table(title, pd.DataFrame(columns), formats, note, groups)


def skipped_table(skipped: pd.DataFrame) -> Table:
    """The rows of the comparison that have no numbers, and the reasons."""
    rows = methods.with_data_title(skipped)[["scenario", "data", "n_identities", "reason"]].drop_duplicates()
    rows = rows.sort_values(list(rows.columns))
    rows["scenario"] = rows["scenario"].map(methods.scenario_title)
    return place_table("Rows without numbers", rows.set_axis(["Scenario", "Data", "N", "Reason"], axis=1), {})
