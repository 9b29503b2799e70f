# SPDX-License-Identifier: MIT
"""The figure of the trainings: loss by epoch."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.reporting.canvas import WIDTH_INCHES, style


def loss_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Mean loss and number of mined triplets, by epoch."""
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 4.6), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        shown = {"train/loss": "loss", "train/triplets": "triplets per batch"}
        for axis, (key, label) in zip(panels, shown.items(), strict=True):
            for name, records in histories.items():
                axis.plot([r["epoch"] + 1 for r in records], [r[key] for r in records], marker=".", label=name)
            axis.set_ylabel(label)
        panels[1].set_yscale("symlog")
        panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panels[1].set_xlabel("epoch")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(histories))
    return figure
