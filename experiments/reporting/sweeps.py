# SPDX-License-Identifier: MIT
"""Several runs that differ in one choice: the choice as a column, and the scores against it."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import legend, legend_height, panels, short, to_png
from experiments.reporting.document import Cell, Picture, Section, Table, drop_constant, group_starts, number_cell
from experiments.reporting.methods import VARIANTS, looks, scenario_title
from experiments.reporting.statistics import METRICS, mean_interval
from experiments.reporting.tables import METRIC_TITLES

BASE = ["data", "n_identities", "scenario"]


def swept_column(frame: pd.DataFrame) -> str | None:
    """The choice in which merged runs differ: the one that takes the most values within a scenario.

    Args:
        frame: labelled rows of results.csv.

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
    """Table and figure of a sweep.

    Args:
        frame: labelled rows of results.csv.

    Returns:
        The section, or None where the runs are no sweep.
    """
    column = swept_column(frame)
    if column is None:
        return None
    groups = frame.groupby([*BASE, column], sort=False)
    points = pd.DataFrame([
        {**dict(zip([*BASE, column], key, strict=True)), "seeds": rows["seed"].nunique(),
         **{metric: mean_interval(rows.groupby("seed")[metric].mean()) for metric in METRICS}}
        for key, rows in groups
    ])  # fmt: skip
    several = points.groupby(BASE)[column].transform("nunique") > 1
    points = points[several].sort_values([*BASE, column], kind="stable", ignore_index=True)
    return Section(
        f"Sweep over {VARIANTS[column]}",
        (_table(points, column), _picture(frame, points, column)),
        (f"{frame['run'].nunique()} runs that differ in {VARIANTS[column]}; a scenario that does not is left out.",),
    )


def _value(column: str, value: float | str) -> str:
    return wording.whole(float(value)) if column == "n_subnets" else str(value)


def _table(points: pd.DataFrame, column: str) -> Table:
    body = []
    for _, row in points.iterrows():
        value = row[column]
        number = number_cell(_value(column, value), value) if column == "n_subnets" else Cell(_value(column, value))
        scores = [
            number_cell(" ".join(filter(None, (wording.percent(row[m].mean), _bounds(row[m])))), row[m].mean)
            for m in METRICS
        ]  # fmt: skip
        body.append((
            Cell(scenario_title(row["scenario"])), Cell(row["data"]),
            number_cell(wording.whole(row["n_identities"]), row["n_identities"]), number, *scores,
            number_cell(str(row["seeds"]), row["seeds"]),
        ))  # fmt: skip
    table = Table(
        f"Scores for each {VARIANTS[column]} (%)",
        ("Scenario", "Data", "N", VARIANTS[column], *(METRIC_TITLES[m] for m in METRICS), "Seeds"),
        tuple(body),
        "Macro averages, mean over seeds. Brackets: 95 % Student t interval of the mean; none for a single seed.",
        group_starts(list(points[BASE].itertuples(index=False, name=None))),
    )
    return drop_constant(table, ("Data", "N"))


def _bounds(interval) -> str:
    return f"[{wording.percent(interval.low)}, {wording.percent(interval.high)}]" if interval.known else ""


def _picture(frame: pd.DataFrame, points: pd.DataFrame, column: str) -> Picture:
    by_scenario = frame.drop_duplicates("scenario").set_index("scenario")["method"]
    all_looks = looks(frame.assign(method=frame["scenario"].map(by_scenario)))
    look = {scenario: all_looks[by_scenario[scenario]] for scenario in dict.fromkeys(points["scenario"])}
    places = list(points.groupby(["data", "n_identities"], sort=False).groups)
    values = sorted(set(points[column]))

    def draw() -> Figure:
        tall = 3.4 if column == "n_subnets" else 1.0 + 0.3 * len(values)
        figure, axes = panels([tall] * len(places), legend_height(len(look)))
        for axis, (data, n) in zip(axes, places, strict=True):
            here = points[(points["data"] == data) & (points["n_identities"] == n)]
            for i, (scenario, style) in enumerate(look.items()):
                rows = here[here["scenario"] == scenario]
                mean = [interval.mean for interval in rows["f1"]]
                half = [interval.high - interval.mean if interval.known else 0.0 for interval in rows["f1"]]
                shift = 0.12 * (i - (len(look) - 1) / 2)
                common: dict[str, Any] = {"color": style.colour, "marker": style.marker, "capsize": 3}
                if column == "n_subnets":
                    axis.errorbar(
                        rows[column] * (1 + 0.1 * shift), mean, yerr=half, linestyle=style.dashes, **common
                    )  # fmt: skip
                else:
                    y = [values.index(value) + shift for value in rows[column]]
                    axis.errorbar(mean, y, xerr=half, linestyle="", **common)
            axis.set_title(f"{short(data)}, N = {wording.whole(n)}")
            if column == "n_subnets":
                axis.set_xscale("log")
                axis.set_xticks(values)
                axis.minorticks_off()
                axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.whole(value)))
                axis.set_ylabel("macro F1 (%)")
            else:
                axis.set_yticks(range(len(values)), [short(_value(column, value), 30) for value in values])
                axis.set_ylim(len(values) - 0.4, -0.6)
        axes[-1].set_xlabel(VARIANTS[column] if column == "n_subnets" else "macro F1 (%)")
        legend(figure, ((scenario_title(name), style) for name, style in look.items()), lines=column == "n_subnets")
        return figure

    return Picture(
        f"sweep_{column}",
        f"Macro F1 against {VARIANTS[column]}. Bars: 95 % t interval of the mean over seeds "
        f"({wording.seeds_phrase(list(points['seeds']))}).",
        f"Macro F1 against {VARIANTS[column]}; the numbers are in the table.",
        to_png(draw),
    )
