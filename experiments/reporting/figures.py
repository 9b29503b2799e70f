# SPDX-License-Identifier: MIT
"""Figures drawn from results.csv: the paper's Figures 6 to 8, the paired differences, and scores against seconds."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import (
    GREY,
    identities_axis,
    legend,
    legend_entries,
    legend_height,
    panels,
    short,
    to_png,
)
from experiments.reporting.document import Picture
from experiments.reporting.methods import MOST_TOLD_APART, OTHERS, Look, looks, method_order, reference_title
from experiments.reporting.statistics import METRICS, paired_differences
from experiments.reporting.tables import METRIC_TITLES, summary

_FIGURE_NUMBER = {"precision": 6, "recall": 7, "f1": 8}
_MOST_PANELS = 6


def _draw_lines(axis: Axes, means: pd.DataFrame, metric: str, look: dict[str, Look]) -> None:
    """One line a method over N, with a band of one standard deviation."""
    for method, rows in means.groupby("method", sort=False):
        rows = rows.dropna(subset=[metric]).sort_values("n_identities")
        style = look[method]
        spread = rows[f"{metric}_sd"].fillna(0)
        axis.fill_between(
            rows["n_identities"], rows[metric] - spread, rows[metric] + spread, color=style.colour, alpha=0.09, lw=0
        )
        axis.plot(
            rows["n_identities"],
            rows[metric],
            color=style.colour,
            marker=style.marker,
            linestyle=style.dashes,
            markeredgecolor="white",
            markeredgewidth=0.7,
        )
    identities_axis(axis, sorted(means["n_identities"].unique()))
    axis.set_ylabel(f"macro {METRIC_TITLES[metric].lower() if metric != 'f1' else 'F1'} (%)")


def _hidden(means: pd.DataFrame, metric: str) -> bool:
    """Whether the fall of no distribution squeezes the other lines into less than half of the panel."""
    others = means.loc[means["scenario"] != "no_distribution", metric]
    return len(others) > 0 and np.ptp(means[metric]) > 2 * np.ptp(others)


def _draw_dots(axis: Axes, rows: pd.DataFrame, metric: str, look: dict[str, Look]) -> None:
    """One row a method: a pale dot for each seed, the mean with one standard deviation on top."""
    methods = [m for m in look if rows.loc[rows["method"] == m, metric].notna().any()]
    if len(methods) > MOST_TOLD_APART:
        methods.sort(key=rows.groupby("method")[metric].mean().get, reverse=True)
    for y, method in enumerate(methods):
        values = rows.loc[rows["method"] == method, metric].dropna()
        style = look[method]
        axis.plot(values, np.full(len(values), y), "o", color=style.colour, alpha=0.28, markersize=7, markeredgewidth=0)
        axis.errorbar(
            values.mean(),
            y,
            xerr=values.std(ddof=1) if len(values) > 1 else None,
            fmt=style.marker,
            color=style.colour,
            capsize=4,
            markersize=8,
        )
        _number(axis, y, wording.percent(values.mean()))
    _method_rows(axis, methods)
    axis.set_xlabel(f"macro {METRIC_TITLES[metric].lower() if metric != 'f1' else 'F1'} (%)")


def _method_rows(axis: Axes, methods: list[str]) -> None:
    axis.set_yticks(range(len(methods)), [short(method, 34) for method in methods])
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def score_picture(frame: pd.DataFrame, metric: str) -> Picture | None:
    """Figure 6, 7 or 8: a score against N for each scenario, a panel for each data set.

    A data set with a single N shows the scenarios side by side instead.

    Args:
        frame: labelled rows of results.csv.
        metric: precision, recall or f1.

    Returns:
        The figure, or None where no row has that score.
    """
    frame = frame[frame[metric].notna()]
    if frame.empty:
        return None
    look, means = looks(frame), summary(frame, (metric,))
    data_sets = list(dict.fromkeys(frame["data"]))
    several = {data: frame.loc[frame["data"] == data, "n_identities"].nunique() > 1 for data in data_sets}

    def draw() -> Figure:
        parts: list[tuple[str, float, str]] = []
        for data in data_sets:
            if not several[data]:
                parts.append((data, 0.85 + 0.29 * frame.loc[frame["data"] == data, "method"].nunique(), "dots"))
            elif _hidden(means[means["data"] == data], metric):
                parts += [(data, 2.7, "lines"), (data, 3.3, "zoom")]
            else:
                parts.append((data, 3.5, "lines"))
        any_lines = any(several.values())
        entries = legend_entries(look)
        figure, axes = panels([height for _, height, _ in parts], legend_height(len(entries)) if any_lines else 0.0)
        for axis, (data, _, kind) in zip(axes, parts, strict=True):
            title = short(data)
            if kind == "dots":
                rows = frame[frame["data"] == data]
                _draw_dots(axis, rows, metric, look)
                title += f", N = {wording.whole(rows['n_identities'].iloc[0])}"
            else:
                rows = means[means["data"] == data]
                zoom = kind == "zoom"
                _draw_lines(axis, rows[rows["scenario"] != "no_distribution"] if zoom else rows, metric, look)
                title += ", without no distribution" if zoom else ""
            axis.set_title(title)
        if any_lines:
            legend(figure, entries)
        return figure

    seeds = wording.seeds_phrase(list(means["seeds"]))
    title = METRIC_TITLES[metric]
    zoom = (
        ", drawn again without no distribution to tell the others apart"
        if any(several[data] and _hidden(means[means["data"] == data], metric) for data in data_sets)
        else ""
    )
    shape = (
        [f"its drop as N grows; band: ± one standard deviation over seeds ({seeds}){zoom}"]
        if any(several.values())
        else []
    )
    if not all(several.values()):
        shape.append(f"at a single N: pale dots are seeds, bars ± one standard deviation ({seeds})")
    if len(look) > MOST_TOLD_APART:
        shape.append("the best first; precision and recall are in Table 2")
    return Picture(
        f"figure{_FIGURE_NUMBER[metric]}_{metric}",
        f"Figure {_FIGURE_NUMBER[metric]}. {title} of each scenario, {'; '.join(shape)}.",
        f"{title} in percent for {len(look)} scenarios on {', '.join(data_sets)}; the numbers are in Table 2.",
        to_png(draw),
    )


def forest_picture(frame: pd.DataFrame, reference: str, metric: str = "f1") -> Picture | None:
    """Paired differences to a reference scenario with their 95 % intervals, a panel for each data set and N.

    Args:
        frame: labelled rows of results.csv.
        reference: the scenario that is subtracted.
        metric: a score in percent.

    Returns:
        The figure, or None where nothing can be paired.
    """
    differences = paired_differences(frame, reference, (metric,))
    if differences.empty:
        return None
    places = list(differences.groupby(["data", "n_identities"], sort=False).groups)
    total, only = len(places), ""
    if total > _MOST_PANELS:
        places = [(data, max(n for d, n in places if d == data)) for data in dict.fromkeys(d for d, _ in places)]
        only = f" Shown: the largest N of each data set, {len(places)} of {total} settings."
    look, order = looks(frame), method_order(frame)
    shown = [differences[(differences["data"] == d) & (differences["n_identities"] == n)] for d, n in places]

    def draw() -> Figure:
        figure, axes = panels([0.85 + 0.29 * len(rows) for rows in shown])
        for axis, rows, (data, n_identities) in zip(axes, shown, places, strict=True):
            intervals = rows.set_index("method")["interval"].reindex([m for m in order if m in set(rows["method"])])
            if len(intervals) > MOST_TOLD_APART:
                intervals = intervals.sort_values(key=lambda one: one.map(lambda i: -i.mean), kind="stable")
            _draw_forest(axis, intervals, look)
            axis.set_title(f"{short(data, 32)}, N = {wording.whole(n_identities)}")
        axes[-1].set_xlabel(f"{METRIC_TITLES[metric]} minus {reference_title(reference)} (points)")
        return figure

    counts = [interval.count for rows in shown for interval in rows["interval"]]
    return Picture(
        f"differences_{reference}",
        f"{METRIC_TITLES[metric]} of each scenario minus {reference_title(reference)}, paired by seed "
        f"({wording.seeds_phrase(counts)}). Bars: 95 % t interval; hollow: it includes 0, or one seed has none; "
        f"an arrow: beyond the panel. "
        f"Each panel has its own scale.{only}",
        f"Forest plot of differences to {reference_title(reference)}; the numbers are in the table of differences.",
        to_png(draw),
    )


def _draw_forest(axis: Axes, intervals: pd.Series, look: dict[str, Look]) -> None:
    low, high = _limits(intervals)
    axis.set_xlim(low, high)
    if low < 0 < high:
        axis.axvline(0, color=GREY, linewidth=1.2, zorder=1)
    else:
        axis.annotate(
            "← 0" if low >= 0 else "0 →",
            (low >= 0 and 0.01 or 0.99, 1.0),
            xycoords="axes fraction",
            fontsize=10,
            color=GREY,
            va="top",
            ha="left" if low >= 0 else "right",
        )
    for y, (method, interval) in enumerate(intervals.items()):
        style = look[method]
        if not low <= interval.mean <= high:
            # As in a meta-analysis: what lies far out is pointed at, so that the others keep a readable scale.
            left = interval.mean < low
            axis.plot(
                0.02 if left else 0.98,
                y,
                "<" if left else ">",
                color=style.colour,
                markersize=9,
                markerfacecolor=style.colour if interval.sign else "white",
                transform=axis.get_yaxis_transform(),
                zorder=4,
            )
        error = [[interval.mean - interval.low], [interval.high - interval.mean]] if interval.known else None
        axis.errorbar(
            interval.mean,
            y,
            xerr=error,
            fmt=style.marker,
            color=style.colour,
            capsize=4,
            markersize=8,
            markerfacecolor=style.colour if interval.sign else "white",
            zorder=3,
        )
        _number(axis, y, wording.difference(interval))
    _method_rows(axis, list(intervals.index))


def _number(axis: Axes, y: float, text: str) -> None:
    axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9.5)


def _limits(intervals: pd.Series) -> tuple[float, float]:
    """The range of a forest plot: the bulk of the intervals, with 0 unless it is far from all of them."""
    ends = np.array([[i.low, i.high] if i.known else [i.mean, i.mean] for i in intervals])
    centre = np.median([i.mean for i in intervals])
    reach = 6 * max(np.median(np.abs(ends - centre)), 1e-3)
    near = (np.abs(ends - centre) <= reach).all(axis=1)
    bulk = ends[near] if near.any() else ends
    low, high = float(bulk.min()), float(bulk.max())
    if low - 2 * (high - low) < 0 < high + 2 * (high - low):
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.08 * (high - low) or 0.1
    return low - pad, high + pad


def seconds_picture(frame: pd.DataFrame, metric: str = "f1") -> Picture | None:
    """A score against the seconds that training took; scenarios without training are horizontal lines.

    Args:
        frame: labelled rows of results.csv.
        metric: a score in percent.

    Returns:
        The figure (the largest N of each data set), or None where no row has training seconds.
    """
    means = summary(frame, (metric, "train_seconds")).dropna(subset=[metric])
    means = means[means["n_identities"] == means.groupby("data")["n_identities"].transform("max")]
    trained = means["train_seconds"] > 0
    if not trained.any():
        return None
    look = looks(frame)
    data_sets = list(dict.fromkeys(means.loc[trained, "data"]))
    crowded = OTHERS in look.values()

    def draw() -> Figure:
        entries = legend_entries({m: look[m] for m in look if m in set(means["method"])})
        figure, axes = panels([3.3 if not crowded else 4.2] * len(data_sets), legend_height(len(entries)))
        for axis, data in zip(axes, data_sets, strict=True):
            rows = means[means["data"] == data]
            times = rows.loc[rows["train_seconds"] > 0, "train_seconds"]
            log = times.max() > 8 * times.min()
            step = min(0.014, 0.07 / times.value_counts().max()) * times.max()
            at: dict[float, int] = {}
            leading = _leading(rows.dropna(subset=["train_seconds"]), metric)
            for _, row in rows.iterrows():
                style = look[row["method"]]
                if not row["train_seconds"] > 0:
                    axis.axhline(row[metric], color=style.colour, linestyle=style.dashes, linewidth=1.5)
                    continue
                # Scenarios of one partition took the same seconds: side by side, each can be seen.
                beside = at[row["train_seconds"]] = at.get(row["train_seconds"], -1) + 1
                if crowded and row["method"] in leading and style == OTHERS:
                    axis.annotate(
                        short(row["method"], 30), (row["train_seconds"], row[metric]), (5, 5),
                        textcoords="offset points", fontsize=8.5,
                    )  # fmt: skip
                seconds = row["train_seconds"]
                axis.errorbar(
                    seconds * (1 + 3 * step / times.max()) ** beside if log else seconds + step * beside,
                    row[metric],
                    yerr=_or_none(row[f"{metric}_sd"]),
                    fmt=style.marker,
                    color=style.colour,
                    capsize=3,
                    markersize=9,
                    markeredgecolor="white",
                )
            if log:
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_minor_formatter(NullFormatter())
            else:
                axis.set_xlim(left=0)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.margins(y=0.15)
            axis.set_title(f"{short(data)}, N = {wording.whole(rows['n_identities'].iloc[0])}")
            axis.set_ylabel("macro F1 (%)" if metric == "f1" else f"{METRIC_TITLES[metric]} (%)")
        axes[-1].set_xlabel("seconds of training, all sub-networks one after the other")
        legend(figure, entries)
        return figure

    return Picture(
        "accuracy_seconds",
        f"{METRIC_TITLES[metric]} on the test images against seconds of training, at the largest N of each data set. "
        f"Bars: ± one standard deviation over seeds ({wording.seeds_phrase(list(means['seeds']))}). A horizontal line "
        "needs no training. Scenarios that share a partition share its seconds and "
        "are drawn side by side." + (" Named are those of the others that no system beats in both." if crowded else ""),
        f"{METRIC_TITLES[metric]} against training seconds; the numbers are in Tables 2 and 3.",
        to_png(draw),
    )


def _leading(rows: pd.DataFrame, metric: str) -> set[str]:
    """The methods than which none is at once better and faster."""
    ordered = rows.sort_values(["train_seconds", metric], ascending=[True, False])
    return set(ordered.loc[ordered[metric] > ordered[metric].cummax().shift(fill_value=-math.inf), "method"])


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def result_pictures(frame: pd.DataFrame) -> dict[str, list[Picture]]:
    """All figures of results.csv.

    Args:
        frame: labelled rows.

    Returns:
        Lists under "scores" (Figures 6 to 8), "differences" and "seconds"; empty where there is nothing to draw.
    """
    # Over many methods each figure is a page long: F1 is the one to look at, the others stand in the table.
    shown = METRICS if frame["method"].nunique() <= MOST_TOLD_APART else ("f1",)
    groups = {
        "scores": [score_picture(frame, metric) for metric in shown],
        "differences": [forest_picture(frame, reference) for reference in ("ism", "no_distribution")],
        "seconds": [seconds_picture(frame)],
    }
    return {name: [picture for picture in group if picture] for name, group in groups.items()}
