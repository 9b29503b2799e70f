# SPDX-License-Identifier: MIT
"""Figures of the multi-label report: F1 of every method, and the gain against the imbalance of the labels."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.label_clusters.tables import F1, Opened, gains
from experiments.reporting.canvas import GREY, WIDTH_INCHES, style

_LOOKS = {"fixed": ("#0072b2", "o"), "validated": ("#e69f00", "s"), "the paper's": (GREY, "x")}  # colour and marker


@style()
def f1_figure(frame: pd.DataFrame) -> Figure:
    """Mean F1 per method and data set, at the fixed and at a validated threshold; leaky readings are hatched."""
    datasets, methods = list(dict.fromkeys(frame["dataset"])), list(dict.fromkeys(frame["method"]))
    leaky = set(frame.loc[frame["protocol"] == "leaky", "method"])
    figure = Figure(figsize=(WIDTH_INCHES, 0.7 + len(datasets) * (0.6 + 0.3 * len(methods))), layout="constrained")
    for axis, dataset in zip(figure.subplots(len(datasets), 1, squeeze=False)[:, 0], datasets, strict=True):
        own = frame.loc[frame["dataset"] == dataset].reindex(columns=["method", *F1.values()])
        means = own.groupby("method").mean().reindex(methods).fillna(0)
        for shift, (threshold, column) in zip((-0.2, 0.2), F1.items(), strict=True):
            places, colour = [place + shift for place in range(len(methods))], _LOOKS[threshold][0]
            bars = axis.barh(places, means[column], height=0.38, color=colour, label=f"{threshold} threshold")
            for bar, method in zip(bars, methods, strict=True):
                if method in leaky:
                    bar.set(hatch="///", edgecolor="white")
        axis.set_yticks(range(len(methods)), [name.replace("_", " ") for name in methods])
        axis.invert_yaxis()
        axis.set(title=dataset, xlabel="F1, % (hatched: leaky)" if leaky else "F1, %")
        axis.grid(axis="y", visible=False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@style()
def gain_figure(frame: pd.DataFrame, opened: Opened) -> Figure:
    """Figure 3 of the paper: the gain in F1 over the best baseline, per data set, against its CVIR."""
    found = gains(frame, opened)
    figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color=GREY, linewidth=1)
    # The first row of a data set and threshold is the gain over the best baseline.
    for threshold, own in found.drop_duplicates(["dataset", "threshold"]).groupby("threshold", sort=False):
        colour, marker = _LOOKS[threshold]
        label = "the paper's claim" if threshold == "the paper's" else f"{threshold} threshold"
        axis.scatter(own["CVIR"], own["gain"], color=colour, marker=marker, label=label, zorder=3)
    for data, _ in opened:
        # Above the frame and rotated: the CVIRs of two data sets may be almost equal.
        axis.text(data.cvir(), 1.01, data.name, transform=axis.get_xaxis_transform(), rotation=25, color=GREY)
    axis.set(xlabel="CVIR of the labels", ylabel="F1 minus best baseline, points")
    axis.margins(0.2)
    if len(found):
        figure.legend(loc="outside lower center", ncols=3)
    return figure
