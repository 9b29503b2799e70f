# SPDX-License-Identifier: MIT
"""Figures of results.csv: the paper's Figures 6 to 8, the paired differences, and F1 against training time."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.reporting import methods
from experiments.reporting.canvas import GREY, drawn, legend_entries, panels, place_title, short, style, told_apart
from experiments.reporting.columns import KNOWN
from experiments.reporting.document import Picture
from experiments.reporting.interactive import tell
from experiments.reporting.number_formats import difference, percent, seeds_phrase, whole
from experiments.reporting.statistics import interval_note, means_over_seeds, paired_differences

_FIGURE_NUMBER = {"precision": 6, "recall": 7, "f1": 8}
_MOST_PANELS = 6


def _draw_lines(axis: Axes, means: pd.DataFrame, metric: str, look: dict[str, methods.Look]) -> None:
    """One line a method over N, with a band of one standard deviation."""
    for method, rows in means.groupby("method", sort=False):
        rows = rows.dropna(subset=[metric]).sort_values("n_identities")
        n, mean, spread = rows["n_identities"], rows[metric], rows[f"{metric}_sd"].fillna(0)
        axis.fill_between(n, mean - spread, mean + spread, color=look[method].colour, alpha=0.09, lw=0)
        (line,) = axis.plot(n, mean, **look[method].line, markeredgecolor="white", markeredgewidth=0.7)
        tell(line, [
            f"{method}, N = {whole(size)}: {percent(value)} ± {percent(sd)}"
            for size, value, sd in zip(n, mean, spread, strict=True)
        ])  # fmt: skip
    values = sorted(means["n_identities"].unique())
    if values[-1] >= 4 * values[0]:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(values, map(whole, values))
    axis.set(xlabel="enrolled identities N", ylabel=_axis_title(metric))


def _axis_title(metric: str) -> str:
    heading = KNOWN[metric].heading
    return f"macro {heading if metric == 'f1' else heading.lower()}"


def _draw_dots(axis: Axes, rows: pd.DataFrame, metric: str, look: dict[str, methods.Look]) -> None:
    """One row a method: a pale dot for each seed, the mean with one standard deviation on top."""
    names = [m for m in look if rows.loc[rows["method"] == m, metric].notna().any()]
    if len(names) > methods.MOST_TOLD_APART:
        names.sort(key=rows.groupby("method")[metric].mean().get, reverse=True)
    for y, method in enumerate(names):
        of_method = rows[rows["method"] == method].dropna(subset=[metric])
        values = of_method[metric]
        colour, spread = look[method].colour, values.std(ddof=1) if len(values) > 1 else None
        dot: dict[str, Any] = {"alpha": 0.28, "markersize": 7, "markeredgewidth": 0}
        (dots,) = axis.plot(values, np.full(len(values), y), "o", color=colour, **dot)
        seeds = of_method["seed"]
        tell(dots, [f"{method}, seed {whole(s)}: {percent(v)}" for s, v in zip(seeds, values, strict=True)])
        mark: dict[str, Any] = {"fmt": look[method].marker, "color": colour, "capsize": 4, "markersize": 8}
        mean = axis.errorbar(values.mean(), y, xerr=spread, **mark).lines[0]
        around = "" if spread is None else f" ± {percent(spread)}"
        tell(mean, [f"{method}: {percent(values.mean())}{around}, {seeds_phrase([len(values)])}"])
        _number(axis, y, percent(values.mean()))
    _method_rows(axis, names)
    axis.set_xlabel(_axis_title(metric))


def _method_rows(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), told_apart(names, 34))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def score_pictures(frame: pd.DataFrame) -> list[Picture]:
    """Figures 6 to 8: precision, recall and F1 against N for each scenario; for many methods F1 alone."""
    # Over many methods each figure is a page long.
    shown = _FIGURE_NUMBER if frame["method"].nunique() <= methods.MOST_TOLD_APART else ["f1"]
    return [_score_picture(frame[frame[metric].notna()], metric) for metric in shown if frame[metric].notna().any()]


@style()
def _score_picture(frame: pd.DataFrame, metric: str) -> Picture:
    """A panel for each data set; one with a single N shows the scenarios side by side."""
    look, means = methods.looks(frame), means_over_seeds(frame, (metric,))
    parts: list[tuple[str, float, str]] = []
    for data, rows in frame.groupby("data", sort=False):
        all_means = means.loc[means["data"] == data].set_index("scenario")[metric]
        others = all_means.drop("no_distribution", errors="ignore")
        if rows["n_identities"].nunique() == 1:
            parts.append((data, 0.85 + 0.29 * rows["method"].nunique(), "dots"))
        elif len(others) and np.ptp(all_means) > 2 * np.ptp(others):  # the others share less than half of the panel
            parts += [(data, 2.7, "lines"), (data, 3.3, "zoom")]
        else:
            parts.append((data, 3.5, "lines"))
    kinds = {kind for _, _, kind in parts}
    figure, axes = panels([height for _, height, _ in parts], legend_entries(look) if "lines" in kinds else [])
    for axis, (data, _, kind) in zip(axes, parts, strict=True):
        rows = means[means["data"] == data]
        if kind == "dots":
            _draw_dots(axis, frame[frame["data"] == data], metric, look)
        else:
            _draw_lines(axis, rows[rows["scenario"] != "no_distribution"] if kind == "zoom" else rows, metric, look)
        with_rest = {"dots": place_title(rows), "zoom": f"{short(data)}, without no distribution"}
        axis.set_title(with_rest.get(kind, short(data)))
    seeds, title, number = seeds_phrase(list(means["seeds"])), KNOWN[metric].title, _FIGURE_NUMBER[metric]
    again = ", drawn again without no distribution to tell the others apart" if "zoom" in kinds else ""
    said = {
        f"its drop as N grows; band: ± one standard deviation over seeds ({seeds}){again}": "lines" in kinds,
        f"at a single N: pale dots are seeds, bars ± one standard deviation ({seeds})": "dots" in kinds,
        "the best first": len(look) > methods.MOST_TOLD_APART,
    }
    caption = f"Figure {number}. {title} of each scenario, {'; '.join(text for text, is_so in said.items() if is_so)}."
    alt = f"{title} in percent for {len(look)} scenarios on {', '.join(frame['data'].unique())}; numbers: Table 2."
    return Picture(f"figure{number}_{metric}", caption, alt, *drawn(figure))


@style()
def forest_picture(frame: pd.DataFrame, reference: str) -> Picture | None:
    """Differences in F1 to a reference scenario, paired by seed, with 95 % intervals; None if nothing can be paired."""
    differences = paired_differences(frame, reference)
    differences = differences[differences["metric"] == "f1"]
    if differences.empty:
        return None
    shown, only, total = differences, "", differences.groupby(["data", "n_identities"]).ngroups
    if total > _MOST_PANELS:
        shown = methods.at_largest_n(differences)
        only = f" Shown: the largest N of each data set, {shown['data'].nunique()} of {total} settings."
    look, order = methods.looks(frame), methods.method_order(frame)
    groups = list(shown.groupby(["data", "n_identities"], sort=False))
    figure, axes = panels([0.85 + 0.29 * len(rows) for _, rows in groups])
    for axis, (_, rows) in zip(axes, groups, strict=True):
        intervals = rows.set_index("method")["interval"].reindex([m for m in order if m in set(rows["method"])])
        if len(intervals) > methods.MOST_TOLD_APART:
            intervals = intervals.sort_values(key=lambda one: one.map(lambda i: -i.mean), kind="stable")
        _draw_forest(axis, intervals, look)
        axis.set_title(place_title(rows, 32))
    title, other = KNOWN["f1"].title, methods.reference_title(reference)
    axes[-1].set_xlabel(f"{title} minus {other} (points)")
    seeds = seeds_phrase([interval.count for interval in shown["interval"]])
    caption = (
        f"{title} of each scenario minus {other}, paired by seed ({seeds}). Bars: {interval_note(frame)}. Hollow: no "
        "difference shown after Holm's correction over the table of these differences, or a single seed. An arrow: "
        f"beyond the panel. Each panel has its own scale.{only}"
    )
    alt = f"Forest plot of differences to {other}; the numbers are in the table of differences."
    return Picture(f"differences_{reference}", caption, alt, *drawn(figure))


def _draw_forest(axis: Axes, intervals: pd.Series, look: dict[str, methods.Look]) -> None:
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
            # As in a meta-analysis, an arrow points at a far value, so that the others keep a readable scale.
            x, arrow = (0.02, "<") if interval.mean < low else (0.98, ">")
            axis.plot(x, y, arrow, **colours, markersize=9, transform=axis.get_yaxis_transform(), zorder=4)
        error = [[interval.mean - interval.low], [interval.high - interval.mean]] if interval.known else None
        marker = look[method].marker
        axis.errorbar(interval.mean, y, xerr=error, fmt=marker, capsize=4, markersize=8, **colours, zorder=3)
        _number(axis, y, difference(interval))
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
    """F1 against the seconds of training at the largest N of each data set; None if no row has such seconds."""
    means = methods.at_largest_n(means_over_seeds(frame, ("f1", "train_seconds")).dropna(subset=["f1"]))
    trained = means["train_seconds"] > 0
    if not trained.any():
        return None
    look, data_sets = methods.looks(frame), means.loc[trained, "data"].unique()
    crowded = methods.OTHERS in look.values()
    entries = legend_entries({m: look[m] for m in look if m in set(means["method"])})
    figure, axes = panels([4.2 if crowded else 3.3] * len(data_sets), entries)
    for axis, data in zip(axes, data_sets, strict=True):
        _draw_seconds(axis, means[means["data"] == data], look)
    axes[-1].set_xlabel("seconds of training, all sub-networks one after the other")
    title, seeds = KNOWN["f1"].title, seeds_phrase(list(means["seeds"]))
    caption = (
        f"{title} on the test images against seconds of training, at the largest N of each data set. "
        f"Bars: ± one standard deviation over seeds ({seeds}). A horizontal line needs no training. Scenarios that "
        "share a partition share its seconds and are drawn side by side."
    )
    caption += " Named: the others that no system beats in both." if crowded else ""
    alt = f"{title} against training seconds; the numbers are in Tables 2 and 3."
    return Picture("accuracy_seconds", caption, alt, *drawn(figure))


def _draw_seconds(axis: Axes, rows: pd.DataFrame, look: dict[str, methods.Look]) -> None:
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
        if row["method"] in leading and own == methods.OTHERS:
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
    axis.set(title=place_title(rows), ylabel=_axis_title("f1"))


def _leading(rows: pd.DataFrame, metric: str) -> set[str]:
    """The methods for which no other method is both better and faster."""
    ordered = rows.sort_values(["train_seconds", metric], ascending=[True, False])
    return set(ordered.loc[ordered[metric] > ordered[metric].cummax().shift(fill_value=-math.inf), "method"])
