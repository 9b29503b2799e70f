# SPDX-License-Identifier: MIT
"""Merged runs that differ in one choice: scores against that choice."""

import pandas as pd
from matplotlib.ticker import FuncFormatter

from experiments.reporting import number_formats
from experiments.reporting.canvas import panels, place_title, short, style, to_png
from experiments.reporting.columns import scores
from experiments.reporting.document import Picture, Table, number_cell, place_table
from experiments.reporting.methods import VARIANTS, looks, scenario_title
from experiments.reporting.statistics import Interval, interval_note, mean_interval, sample_ratio
from experiments.reporting.tables import frame_of, score_headings

BASE = ["data", "n_identities", "scenario"]


def swept_column(frame: pd.DataFrame) -> str | None:
    """The key of `methods.VARIANTS` in which merged runs differ, by the most values; None if in none."""
    if frame["run"].nunique() < 2:
        return None
    counts = {
        column: int(frame.groupby(BASE)[column].nunique().max()) for column in VARIANTS
        if frame.groupby(["run", *BASE])[column].nunique(dropna=False).max() == 1
    }  # fmt: skip
    column = max(counts, key=lambda name: counts[name], default=None)
    return column if column is not None and counts[column] > 1 else None


def sweep_blocks(frame: pd.DataFrame) -> list[Table | Picture]:
    """Table and figure of a sweep; empty if the runs are no sweep."""
    column = swept_column(frame)
    if column is None:
        return []
    rows = []
    for key, group in frame.groupby([*BASE, column], sort=False):
        by_seed, ratio = group.groupby("seed"), sample_ratio(group)
        intervals = {score.name: mean_interval(by_seed[score.name].mean(), ratio) for score in scores(frame)}
        rows.append(dict(zip([*BASE, column], key, strict=True)) | {"seeds": by_seed.ngroups} | intervals)
    points = pd.DataFrame(rows)
    several = points.groupby(BASE)[column].transform("nunique") > 1
    points = points[several].sort_values([*BASE, column], kind="stable", ignore_index=True)
    return [_table(frame, points, column), _picture(frame, points, column)]


def _table(frame: pd.DataFrame, points: pd.DataFrame, column: str) -> Table:
    columns, name = scores(frame), VARIANTS[column]
    shown = [points["scenario"].map(scenario_title), points["data"], points["n_identities"], points[column]]
    for one in columns:
        shown.append([number_cell(_score(interval, one.digits or 0), interval.mean) for interval in points[one.name]])
    headings = ["Scenario", "Data", "N", name, *score_headings(columns), "Seeds"]
    note = (
        f"{frame['run'].nunique()} runs that differ in {name}; scenarios that do not are left out. Macro averages, "
        f"mean over seeds. Brackets: {interval_note(frame)}; none for a single seed."
    )
    table = frame_of(headings, [*shown, points["seeds"]])
    groups = list(points[BASE].itertuples(index=False, name=None))
    return place_table(f"Sweep over {name}: scores (%)", table, {}, note, groups)


def _score(interval: Interval, digits: int) -> str:
    mean, low, high = (number_formats.percent(value, digits) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]" if interval.known else mean


@style()
def _picture(frame: pd.DataFrame, points: pd.DataFrame, column: str) -> Picture:
    by_scenario = frame.drop_duplicates("scenario").set_index("scenario")["method"]
    all_looks = looks(frame.assign(method=frame["scenario"].map(by_scenario)))
    look = {scenario: all_looks[by_scenario[scenario]] for scenario in points["scenario"].unique()}
    places = points.groupby(["data", "n_identities"], sort=False)
    values = sorted(set(points[column]))
    counted = column == "n_subnets"  # m is a horizontal axis; each name has a line
    entries = [(scenario_title(name), one) for name, one in look.items()]
    figure, axes = panels([3.4 if counted else 1.0 + 0.3 * len(values)] * len(places), entries, lines=counted)
    for axis, (_, here) in zip(axes, places, strict=True):
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
        axis.set_title(place_title(here))
        if counted:
            axis.set(xscale="log", ylabel="macro F1 (%)")
            axis.set_xticks(values)
            axis.minorticks_off()
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_formats.whole(value)))
        else:
            axis.set_yticks(range(len(values)), [short(str(value), 30) for value in values])
            axis.set_ylim(len(values) - 0.4, -0.6)
    axes[-1].set_xlabel(VARIANTS[column] if counted else "macro F1 (%)")
    seeds = number_formats.seeds_phrase(list(points["seeds"]))
    caption = f"Macro F1 against {VARIANTS[column]} ({seeds}). Bars: {interval_note(frame)}."
    alt = f"Macro F1 against {VARIANTS[column]}; the numbers are in the table."
    return Picture(f"sweep_{column}", caption, alt, to_png(figure))
