# SPDX-License-Identifier: MIT
"""Merged runs that differ in one choice: scores against that choice."""

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.ticker import FuncFormatter

from datamodules.errors import InputError
from experiments.command_line.choices import load_node
from experiments.reporting import number_formats
from experiments.reporting.canvas import drawn, panels, place_title, style, told_apart
from experiments.reporting.columns import scores
from experiments.reporting.document import Picture, Table, TableCell, number_cell, place_table
from experiments.reporting.methods import VARIANTS, looks, scenario_title
from experiments.reporting.statistics import Interval, interval_note, mean_interval, sample_ratio
from experiments.reporting.tables import frame_of, score_headings

BASE = ["data", "n_identities", "scenario"]
_SETTING = r"(?P<key>[^=]+)=(?P<value>.+)"
_CHOICE = r"(?P<name>\w+)(\((?P<key>\w+)=(?P<value>[^,()]+)\))?"  # as `choices.short_name` writes it


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
    points, name = points[several].reset_index(drop=True), VARIANTS[column]
    if (numbers := numeric_values(column, points[column])) is not None:
        name, values = numbers
        points[column] = points[column].map(values)
    points = points.sort_values([*BASE, column], kind="stable", ignore_index=True)
    return [_table(frame, points, column, name), _picture(frame, points, column, name)]


def numeric_values(column: str, values: Iterable[Any]) -> tuple[str, dict[Any, float]] | None:
    """The key that a sweep changes and its number for each value of a column; None if they are no numbers of one key.

    A value without arguments has the number of its file.

    >>> numeric_values("loss", ["arcface(margin=0.3)", "arcface"])
    ('loss.margin', {'arcface(margin=0.3)': 0.3, 'arcface': 0.5})
    """
    if column == "n_subnets":
        return VARIANTS[column], {value: float(value) for value in values}
    form = re.compile(_SETTING if column == "setting" else _CHOICE)
    found = {value: form.fullmatch(str(value)) for value in values}
    if not all(found.values()):
        return None
    parts = {value: match.groupdict() for value, match in found.items() if match}
    keys = {part["key"] for part in parts.values() if part["key"]}
    names = {part.get("name") for part in parts.values()}
    if len(keys) != 1 or len(names) != 1:
        return None
    (key,), (name,) = keys, names
    try:
        default = load_node(column, name)[key] if name else None
        numbers = {value: float(part["value"] or default) for value, part in parts.items()}
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return (f"{column}.{key}" if name else key), numbers


def _table(frame: pd.DataFrame, points: pd.DataFrame, column: str, name: str) -> Table:
    columns = scores(frame)
    shown = [
        points["scenario"].map(scenario_title),
        points["data"],
        points["n_identities"],
        points[column].map(_number),
    ]
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


def _number(value: Any) -> Any:
    return TableCell(f"{value:g}", value) if isinstance(value, float) else value


def _score(interval: Interval, digits: int) -> str:
    mean, low, high = (number_formats.percent(value, digits) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]" if interval.known else mean


@style()
def _picture(frame: pd.DataFrame, points: pd.DataFrame, column: str, name: str) -> Picture:
    by_scenario = frame.drop_duplicates("scenario").set_index("scenario")["method"]
    all_looks = looks(frame.assign(method=frame["scenario"].map(by_scenario)))
    look = {scenario: all_looks[by_scenario[scenario]] for scenario in points["scenario"].unique()}
    places = points.groupby(["data", "n_identities"], sort=False)
    values = sorted(set(points[column]))
    counted = all(isinstance(value, float) for value in values)  # an axis of numbers; else each name has a line
    log = counted and values[0] > 0 and values[-1] >= 4 * values[0]
    entries = [(scenario_title(scenario), one) for scenario, one in look.items()]
    figure, axes = panels([3.4 if counted else 1.0 + 0.3 * len(values)] * len(places), entries, lines=counted)
    for axis, (_, here) in zip(axes, places, strict=True):
        for i, (scenario, one) in enumerate(look.items()):
            rows = here[here["scenario"] == scenario]
            mean = [interval.mean for interval in rows["f1"]]
            half = [interval.high - interval.mean if interval.known else 0.0 for interval in rows["f1"]]
            shift = 0.12 * (i - (len(look) - 1) / 2)
            if counted:
                beside = rows[column] * 0.1 * shift if log else 0.1 * shift * (values[-1] - values[0])
                axis.errorbar(rows[column] + beside, mean, yerr=half, **one.line, capsize=3)
            else:
                y = [values.index(value) + shift for value in rows[column]]
                axis.errorbar(mean, y, xerr=half, **one.line | {"linestyle": ""}, capsize=3)
        axis.set_title(place_title(here))
        if counted:
            axis.set(xscale="log" if log else "linear", ylabel="macro F1 (%)")
            axis.set_xticks(values)
            axis.minorticks_off()
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axis.set_yticks(range(len(values)), told_apart([str(value) for value in values], 30))
            axis.set_ylim(len(values) - 0.4, -0.6)
    axes[-1].set_xlabel(name if counted else "macro F1 (%)")
    seeds = number_formats.seeds_phrase(list(points["seeds"]))
    caption = f"Macro F1 against {name} ({seeds}). Bars: {interval_note(frame)}."
    alt = f"Macro F1 against {name}; the numbers are in the table."
    return Picture(f"sweep_{column}", caption, alt, *drawn(figure))
