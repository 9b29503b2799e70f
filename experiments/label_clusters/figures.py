# SPDX-License-Identifier: MIT
"""Figures of the multi-label report: F1 of every method, and the gain against the imbalance of the labels."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.label_clusters.tables import Opened, gains
from experiments.reporting.canvas import GREY, WIDTH_INCHES, style

_FIXED, _VALIDATED = "#0072b2", "#e69f00"


def f1_figure(frame: pd.DataFrame) -> Figure:
    """Mean F1 per method and data set, at the fixed and at a validated threshold; leaky readings are hatched."""
    datasets, methods = list(dict.fromkeys(frame["dataset"])), list(dict.fromkeys(frame["method"]))
    leaky = set(frame.loc[frame["protocol"] == "leaky", "method"])
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 0.7 + len(datasets) * (0.6 + 0.3 * len(methods))), layout="constrained")
        for axis, dataset in zip(figure.subplots(len(datasets), 1, squeeze=False)[:, 0], datasets, strict=True):
            own = frame.loc[frame["dataset"] == dataset].groupby("method")
            for shift, column, colour in ((-0.2, "f1", _FIXED), (0.2, "validated_f1", _VALIDATED)):
                means = own[column].mean().reindex(methods, fill_value=0).fillna(0) if column in frame else 0.0
                label = "fixed threshold" if column == "f1" else "validated threshold"
                places = [place + shift for place in range(len(methods))]
                bars = axis.barh(places, means, height=0.38, color=colour, label=label)
                for bar, method in zip(bars, methods, strict=True):
                    if method in leaky:
                        bar.set(hatch="///", edgecolor="white")
            axis.set_yticks(range(len(methods)), [name.replace("_", " ") for name in methods])
            axis.invert_yaxis()
            axis.set_title(dataset)
            axis.set_xlabel("F1, % (hatched: leaky)" if leaky else "F1, %")
            axis.grid(axis="y", visible=False)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def gain_figure(frame: pd.DataFrame, opened: Opened) -> Figure:
    """Figure 3 of the paper: the gain in F1 over the best baseline, per data set, against its CVIR."""
    found = gains(frame, opened)
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        axis = figure.subplots()
        axis.axhline(0, color=GREY, linewidth=1)
        looks = (("fixed", _FIXED, "o"), ("validated", _VALIDATED, "s"), ("the paper's", GREY, "x"))
        for threshold, colour, marker in looks:
            # Against the best baseline only: the first row of each data set and threshold.
            own = found.loc[found["threshold"] == threshold].drop_duplicates("dataset") if len(found) else found
            if len(own):
                label = "the paper's claim" if threshold == "the paper's" else f"{threshold} threshold"
                axis.scatter(own["CVIR"], own["gain"], color=colour, marker=marker, label=label, zorder=3)
        for data, _ in opened:
            # Above the frame and aslant: the CVIRs of two data sets may all but coincide.
            axis.annotate(
                data.name, (data.cvir(), 1.01), xycoords=("data", "axes fraction"), rotation=25, ha="left", color=GREY
            )
        axis.set_xlabel("CVIR of the labels")
        axis.set_ylabel("F1 minus best baseline, points")
        axis.margins(0.2)
        if len(found):
            figure.legend(loc="outside lower center", ncols=3)
    return figure
