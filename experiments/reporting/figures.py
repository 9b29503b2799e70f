# SPDX-License-Identifier: MIT
"""Figures drawn from results.csv: the paper's Figures 6 to 8, the paired differences, and scores against seconds."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import GREY, identities_axis, legend_entries, panels, short, style, to_png
from experiments.reporting.columns import KNOWN
from experiments.reporting.document import Picture
from experiments.reporting.methods import (
    MOST_TOLD_APART,
    OTHERS,
    Look,
    at_largest_n,
    looks,
    method_order,
    reference_title,
)
from experiments.reporting.statistics import paired_differences
from experiments.reporting.tables import summary

_FIGURE_NUMBER = {"precision": 6, "recall": 7, "f1": 8}
_MOST_PANELS = 6


def _draw_lines(axis: Axes, means: pd.DataFrame, metric: str, look: dict[str, Look]) -> None:
    """One line a method over N, with a band of one standard deviation."""
    for method, rows in means.groupby("method", sort=False):
        rows = rows.dropna(subset=[metric]).sort_values("n_identities")
        n, mean, spread = rows["n_identities"], rows[metric], rows[f"{metric}_sd"].fillna(0)
        axis.fill_between(n, mean - spread, mean + spread, color=look[method].colour, alpha=0.09, lw=0)
        axis.plot(n, mean, **look[method].line, markeredgecolor="white", markeredgewidth=0.7)
    identities_axis(axis, sorted(means["n_identities"].unique()))
    axis.set_ylabel(_axis_title(metric))


def _axis_title(metric: str) -> str:
    heading = KNOWN[metric].heading
    return f"macro {heading if metric == 'f1' else heading.lower()}"


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
        colour, spread = look[method].colour, values.std(ddof=1) if len(values) > 1 else None
        axis.plot(values, np.full(len(values), y), "o", color=colour, alpha=0.28, markersize=7, markeredgewidth=0)
        axis.errorbar(values.mean(), y, xerr=spread, fmt=look[method].marker, color=colour, capsize=4, markersize=8)
        _number(axis, y, wording.percent(values.mean()))
    _method_rows(axis, methods)
    axis.set_xlabel(_axis_title(metric))


def _method_rows(axis: Axes, methods: list[str]) -> None:
    axis.set_yticks(range(len(methods)), [short(method, 34) for method in methods])
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


@style()
def score_picture(frame: pd.DataFrame, metric: str) -> Picture | None:
    """Figure 6, 7 or 8: a score against N for each scenario, a panel for each data set.

    A data set with a single N shows the scenarios side by side instead.

    Args:
        metric: precision, recall or f1.

    Returns:
        The figure, or None where no row has that score.
    """
    frame = frame[frame[metric].notna()]
    if frame.empty:
        return None
    look, means = looks(frame), summary(frame, (metric,))
    parts: list[tuple[str, float, str]] = []
    for data, rows in frame.groupby("data", sort=False):
        if rows["n_identities"].nunique() == 1:
            parts.append((data, 0.85 + 0.29 * rows["method"].nunique(), "dots"))
        elif _hidden(means[means["data"] == data], metric):
            parts += [(data, 2.7, "lines"), (data, 3.3, "zoom")]
        else:
            parts.append((data, 3.5, "lines"))
    kinds = {kind for _, _, kind in parts}
    figure, axes = panels([height for _, height, _ in parts], legend_entries(look) if "lines" in kinds else [])
    for axis, (data, _, kind) in zip(axes, parts, strict=True):
        title = short(data)
        if kind == "dots":
            rows = frame[frame["data"] == data]
            _draw_dots(axis, rows, metric, look)
            title += f", N = {wording.whole(rows['n_identities'].iloc[0])}"
        else:
            rows = means[means["data"] == data]
            if kind == "zoom":
                rows = rows[rows["scenario"] != "no_distribution"]
                title += ", without no distribution"
            _draw_lines(axis, rows, metric, look)
        axis.set_title(title)
    seeds, title = wording.seeds_phrase(list(means["seeds"])), KNOWN[metric].title
    said = []
    if "lines" in kinds:
        said.append(f"its drop as N grows; band: ± one standard deviation over seeds ({seeds})")
    if "zoom" in kinds:
        said[0] += ", drawn again without no distribution to tell the others apart"
    if "dots" in kinds:
        said.append(f"at a single N: pale dots are seeds, bars ± one standard deviation ({seeds})")
    if len(look) > MOST_TOLD_APART:
        said.append("the best first; precision and recall are in Table 2")
    data_sets = ", ".join(frame["data"].unique())
    return Picture(
        f"figure{_FIGURE_NUMBER[metric]}_{metric}",
        f"Figure {_FIGURE_NUMBER[metric]}. {title} of each scenario, {'; '.join(said)}.",
        f"{title} in percent for {len(look)} scenarios on {data_sets}; the numbers are in Table 2.",
        to_png(figure),
    )


@style()
def forest_picture(frame: pd.DataFrame, reference: str) -> Picture | None:
    """Paired differences in F1 to a reference scenario with their 95 % intervals, a panel for each data set and N.

    Returns:
        The figure, or None where nothing can be paired.
    """
    differences = paired_differences(frame, reference, ("f1",))
    if differences.empty:
        return None
    shown, only = differences, ""
    total = differences.groupby(["data", "n_identities"]).ngroups
    if total > _MOST_PANELS:
        shown = at_largest_n(differences)
        only = f" Shown: the largest N of each data set, {shown['data'].nunique()} of {total} settings."
    look, order = looks(frame), method_order(frame)
    groups = list(shown.groupby(["data", "n_identities"], sort=False))
    figure, axes = panels([0.85 + 0.29 * len(rows) for _, rows in groups])
    for axis, ((data, n_identities), rows) in zip(axes, groups, strict=True):
        intervals = rows.set_index("method")["interval"].reindex([m for m in order if m in set(rows["method"])])
        if len(intervals) > MOST_TOLD_APART:
            intervals = intervals.sort_values(key=lambda one: one.map(lambda i: -i.mean), kind="stable")
        _draw_forest(axis, intervals, look)
        axis.set_title(f"{short(data, 32)}, N = {wording.whole(n_identities)}")
    title, other = KNOWN["f1"].title, reference_title(reference)
    axes[-1].set_xlabel(f"{title} minus {other} (points)")
    seeds = wording.seeds_phrase([interval.count for interval in shown["interval"]])
    return Picture(
        f"differences_{reference}",
        f"{title} of each scenario minus {other}, paired by seed ({seeds}). Bars: 95 % t interval; hollow: it includes "
        f"0, or one seed has none; an arrow: beyond the panel. Each panel has its own scale.{only}",
        f"Forest plot of differences to {other}; the numbers are in the table of differences.",
        to_png(figure),
    )


def _draw_forest(axis: Axes, intervals: pd.Series, look: dict[str, Look]) -> None:
    low, high = _limits(intervals)
    axis.set_xlim(low, high)
    if low < 0 < high:
        axis.axvline(0, color=GREY, linewidth=1.2, zorder=1)
    else:
        text, x, side = ("← 0", 0.01, "left") if low >= 0 else ("0 →", 0.99, "right")
        axis.annotate(text, (x, 1.0), xycoords="axes fraction", fontsize=10, color=GREY, va="top", ha=side)
    for y, (method, interval) in enumerate(intervals.items()):
        face = look[method].colour if interval.sign else "white"
        colours: dict[str, Any] = {"color": look[method].colour, "markerfacecolor": face}
        if not low <= interval.mean <= high:
            # As in a meta-analysis: what lies far out is pointed at, so that the others keep a readable scale.
            x, arrow = (0.02, "<") if interval.mean < low else (0.98, ">")
            axis.plot(x, y, arrow, **colours, markersize=9, transform=axis.get_yaxis_transform(), zorder=4)
        error = [[interval.mean - interval.low], [interval.high - interval.mean]] if interval.known else None
        marker = look[method].marker
        axis.errorbar(interval.mean, y, xerr=error, fmt=marker, capsize=4, markersize=8, **colours, zorder=3)
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


@style()
def seconds_picture(frame: pd.DataFrame) -> Picture | None:
    """F1 against the seconds that training took; scenarios without training are horizontal lines.

    Returns:
        The figure (the largest N of each data set), or None where no row has training seconds.
    """
    means = at_largest_n(summary(frame, ("f1", "train_seconds")).dropna(subset=["f1"]))
    trained = means["train_seconds"] > 0
    if not trained.any():
        return None
    look = looks(frame)
    data_sets = means.loc[trained, "data"].unique()
    crowded = OTHERS in look.values()
    entries = legend_entries({m: look[m] for m in look if m in set(means["method"])})
    figure, axes = panels([4.2 if crowded else 3.3] * len(data_sets), entries)
    for axis, data in zip(axes, data_sets, strict=True):
        _draw_seconds(axis, means[means["data"] == data], look)
    axes[-1].set_xlabel("seconds of training, all sub-networks one after the other")
    title, seeds = KNOWN["f1"].title, wording.seeds_phrase(list(means["seeds"]))
    return Picture(
        "accuracy_seconds",
        f"{title} on the test images against seconds of training, at the largest N of each data set. "
        f"Bars: ± one standard deviation over seeds ({seeds}). A horizontal line "
        "needs no training. Scenarios that share a partition share its seconds and "
        "are drawn side by side." + (" Named are those of the others that no system beats in both." if crowded else ""),
        f"{title} against training seconds; the numbers are in Tables 2 and 3.",
        to_png(figure),
    )


def _draw_seconds(axis: Axes, rows: pd.DataFrame, look: dict[str, Look]) -> None:
    times = rows.loc[rows["train_seconds"] > 0, "train_seconds"]
    log = times.max() > 8 * times.min()
    step = min(0.014, 0.07 / times.value_counts().max()) * times.max()
    leading = _leading(rows.dropna(subset=["train_seconds"]), "f1")
    # Scenarios of one partition took the same seconds: side by side, each can be seen.
    for (_, row), beside in zip(rows.iterrows(), rows.groupby("train_seconds", dropna=False).cumcount(), strict=True):
        own, f1, seconds = look[row["method"]], row["f1"], row["train_seconds"]
        if not seconds > 0:
            axis.axhline(f1, color=own.colour, linestyle=own.dashes, linewidth=1.5)
            continue
        if row["method"] in leading and own == OTHERS:
            name = short(row["method"], 30)
            axis.annotate(name, (seconds, f1), (5, 5), textcoords="offset points", fontsize=8.5)
        x = seconds * (1 + 3 * step / times.max()) ** beside if log else seconds + step * beside
        error = None if math.isnan(row["f1_sd"]) else row["f1_sd"]
        mark: dict[str, Any] = {"fmt": own.marker, "markersize": 9, "markeredgecolor": "white"}
        axis.errorbar(x, f1, yerr=error, color=own.colour, capsize=3, **mark)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.margins(y=0.15)
    axis.set_title(f"{short(rows['data'].iloc[0])}, N = {wording.whole(rows['n_identities'].iloc[0])}")
    axis.set_ylabel(_axis_title("f1"))


def _leading(rows: pd.DataFrame, metric: str) -> set[str]:
    """The methods than which none is at once better and faster."""
    ordered = rows.sort_values(["train_seconds", metric], ascending=[True, False])
    return set(ordered.loc[ordered[metric] > ordered[metric].cummax().shift(fill_value=-math.inf), "method"])


def result_pictures(frame: pd.DataFrame) -> dict[str, list[Picture]]:
    """All figures of results.csv.

    Returns:
        Lists under "scores" (Figures 6 to 8), "differences" and "seconds"; empty where there is nothing to draw.
    """
    # Over many methods each figure is a page long: F1 is the one to look at, the others stand in the table.
    shown = tuple(_FIGURE_NUMBER) if frame["method"].nunique() <= MOST_TOLD_APART else ("f1",)
    groups = {
        "scores": [score_picture(frame, metric) for metric in shown],
        "differences": [forest_picture(frame, reference) for reference in ("ism", "no_distribution")],
        "seconds": [seconds_picture(frame)],
    }
    return {name: [picture for picture in group if picture] for name, group in groups.items()}
