# SPDX-License-Identifier: MIT
"""Several runs that differ in one choice: the choice as a column, and the scores against it."""

import pandas as pd
from matplotlib.ticker import FuncFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import panels, short, style, to_png
from experiments.reporting.columns import Column, scores
from experiments.reporting.document import Cell, Picture, Section, Table, number_cell, place_table, written
from experiments.reporting.methods import VARIANTS, looks, scenario_title
from experiments.reporting.statistics import Interval, mean_interval
from experiments.reporting.tables import score_headings

BASE = ["data", "n_identities", "scenario"]


def swept_column(frame: pd.DataFrame) -> str | None:
    """The choice in which merged runs differ: the one that takes the most values within a scenario.

    Returns:
        A key of `methods.VARIANTS`, or None where nothing differs between runs.
    """
    if frame["run"].nunique() < 2:
        return None
    counts = {
        column: int(frame.groupby(BASE)[column].nunique().max()) for column in VARIANTS
        if frame.groupby(["run", *BASE])[column].nunique(dropna=False).max() == 1
    }  # fmt: skip
    column = max(counts, key=lambda name: counts[name], default=None)
    return column if column is not None and counts[column] > 1 else None


def sweep_section(frame: pd.DataFrame) -> Section | None:
    """Table and figure of a sweep; None where the runs are no sweep."""
    column = swept_column(frame)
    if column is None:
        return None
    rows = []
    for key, group in frame.groupby([*BASE, column], sort=False):
        by_seed = group.groupby("seed")
        intervals = {score.name: mean_interval(by_seed[score.name].mean()) for score in scores(frame)}
        rows.append(dict(zip([*BASE, column], key, strict=True)) | {"seeds": by_seed.ngroups} | intervals)
    points = pd.DataFrame(rows)
    several = points.groupby(BASE)[column].transform("nunique") > 1
    points = points[several].sort_values([*BASE, column], kind="stable", ignore_index=True)
    return Section(
        f"Sweep over {VARIANTS[column]}",
        (_table(points, column, scores(frame)), _picture(frame, points, column)),
        (f"{frame['run'].nunique()} runs that differ in {VARIANTS[column]}; a scenario that does not is left out.",),
    )


def _table(points: pd.DataFrame, column: str, columns: tuple[Column, ...]) -> Table:
    body = []
    for _, row in points.iterrows():
        place = [Cell(scenario_title(row["scenario"])), Cell(row["data"]), written(row["n_identities"])]
        value = written(row[column]) if column == "n_subnets" else Cell(row[column])
        shown = [number_cell(_score(row[one.name], one.digits or 0), row[one.name].mean) for one in columns]
        body.append([*place, value, *shown, written(row["seeds"])])
    return place_table(
        f"Scores for each {VARIANTS[column]} (%)",
        ("Scenario", "Data", "N", VARIANTS[column], *score_headings(columns), "Seeds"),
        body,
        "Macro averages, mean over seeds. Brackets: 95 % Student t interval of the mean; none for a single seed.",
        list(points[BASE].itertuples(index=False, name=None)),
    )


def _score(interval: Interval, digits: int) -> str:
    mean, low, high = (wording.percent(value, digits) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]" if interval.known else mean


@style()
def _picture(frame: pd.DataFrame, points: pd.DataFrame, column: str) -> Picture:
    by_scenario = frame.drop_duplicates("scenario").set_index("scenario")["method"]
    all_looks = looks(frame.assign(method=frame["scenario"].map(by_scenario)))
    look = {scenario: all_looks[by_scenario[scenario]] for scenario in points["scenario"].unique()}
    places = points.groupby(["data", "n_identities"], sort=False)
    values = sorted(set(points[column]))
    counted = column == "n_subnets"  # m is a horizontal axis; of names each has a line
    entries = [(scenario_title(name), one) for name, one in look.items()]
    figure, axes = panels([3.4 if counted else 1.0 + 0.3 * len(values)] * len(places), entries, lines=counted)
    for axis, ((data, n), here) in zip(axes, places, strict=True):
        for i, (scenario, one) in enumerate(look.items()):
            rows = here[here["scenario"] == scenario]
            mean = [interval.mean for interval in rows["f1"]]
            half = [interval.high - interval.mean if interval.known else 0.0 for interval in rows["f1"]]
            shift = 0.12 * (i - (len(look) - 1) / 2)
            if counted:
                axis.errorbar(rows[column] * (1 + 0.1 * shift), mean, yerr=half, **one.line, capsize=3)
            else:
                y = [values.index(value) + shift for value in rows[column]]
                axis.errorbar(mean, y, xerr=half, **one.line | {"linestyle": ""}, capsize=3)
        axis.set_title(f"{short(data)}, N = {wording.whole(n)}")
        if counted:
            axis.set_xscale("log")
            axis.set_xticks(values)
            axis.minorticks_off()
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.whole(value)))
            axis.set_ylabel("macro F1 (%)")
        else:
            axis.set_yticks(range(len(values)), [short(str(value), 30) for value in values])
            axis.set_ylim(len(values) - 0.4, -0.6)
    axes[-1].set_xlabel(VARIANTS[column] if counted else "macro F1 (%)")
    seeds = wording.seeds_phrase(list(points["seeds"]))
    return Picture(
        f"sweep_{column}",
        f"Macro F1 against {VARIANTS[column]}. Bars: 95 % t interval of the mean over seeds ({seeds}).",
        f"Macro F1 against {VARIANTS[column]}; the numbers are in the table.",
        to_png(figure),
    )
