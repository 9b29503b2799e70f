# SPDX-License-Identifier: MIT
"""Figures drawn from the optional details: convergence, cluster sizes, and how well clusters are set apart."""

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.reporting import wording
from experiments.reporting.canvas import legend_entries, panels, short, style, to_png
from experiments.reporting.document import Picture
from experiments.reporting.methods import (
    MOST_TOLD_APART,
    OTHERS,
    Look,
    at_largest_n,
    data_title,
    partition_order,
    partition_title,
)

_FIXED = {"no_distribution": Look("#000000", "s", "-"), "single": Look("#000000", "s", "-")}
_FIXED |= {"random": Look("#d55e00", "o", "--"), "kmeans": Look("#0072b2", "^", "-.")}
_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00")
_MARKERS = "Dv<>ph"


def _looks(names: list[str]) -> dict[str, Look]:
    if len(names) > MOST_TOLD_APART:
        return {name: _FIXED.get(name, OTHERS) for name in names}
    further = [name for name in names if name not in _FIXED]
    dashes = [(0, (4, 1 + i % 3)) for i in range(len(further))]
    return {name: _FIXED[name] for name in names if name in _FIXED} | dict(
        zip(further, map(Look, cycle(_COLOURS), cycle(_MARKERS), dashes), strict=True)
    )


def _entries(look: dict[str, Look]) -> list[tuple[str, Look]]:
    return legend_entries({partition_title(name): one for name, one in look.items()})


def _largest(frame: pd.DataFrame) -> pd.DataFrame:
    return at_largest_n(frame.assign(data=frame["dataset"].map(data_title)))


def _curves(history: pd.DataFrame) -> pd.DataFrame:
    """Per data set, partition, seed and epoch: mean loss and accuracy over clusters and serial seconds so far."""
    keys = ["data", "n_identities", "scenario_partition", "seed"]
    epochs = history.groupby([*keys, "epoch"])[["train_loss", "val_accuracy"]].mean()
    epochs["seconds"] = history.groupby([*keys, "epoch"])["epoch_seconds"].sum(min_count=1)
    epochs["seconds"] = epochs.groupby(level=keys)["seconds"].cumsum()
    return epochs.reset_index()


@style()
def convergence_pictures(history: pd.DataFrame) -> list[Picture]:
    """Loss and validation accuracy against epoch and against seconds, at the largest N of each data set.

    Returns:
        For each data set "convergence_<i>" and, where times and accuracies are known, "learning_seconds_<i>".
    """
    curves = _curves(_largest(history))
    pictures = []
    for i, (data, rows) in enumerate(curves.groupby("data", sort=False), start=1):
        place = f"{short(data)}, N = {wording.whole(rows['n_identities'].iloc[0])}"
        seeds = wording.seeds_phrase(list(rows.groupby("scenario_partition")["seed"].nunique()))
        pictures.append(
            Picture(
                f"convergence_{i}",
                f"Convergence on {data}: mean over sub-networks and seeds ({seeds}); band: lowest to highest seed. "
                "Validation accuracy is each sub-network's on its own identities, which is easier the fewer they are.",
                f"Training loss and validation accuracy against epoch on {data}.",
                to_png(_draw_convergence(rows, place)),
            )
        )
        if rows[["seconds", "val_accuracy"]].notna().all(axis=1).any():
            pictures.append(
                Picture(
                    f"learning_seconds_{i}",
                    f"Validation accuracy on {data} against the seconds spent, all sub-networks one after the other; "
                    f"mean over seeds ({seeds}).",
                    f"Validation accuracy against training seconds on {data}.",
                    to_png(_draw_seconds(rows, place)),
                )
            )
    return pictures


def _draw_curve(axis: Axes, x: pd.Index | pd.Series, y: pd.Series, look: Look, place: int) -> None:
    """A line whose markers are staggered by its place, so that lines on top of each other can be told apart.

    A single epoch makes no line: its marker must be seen.
    """
    step = max(1, len(y) // 7)
    axis.plot(x, y, **look.line, markevery=(place * step // 3 % step, step), markeredgecolor="white")


def _draw_convergence(rows: pd.DataFrame, place: str) -> Figure:
    look = _looks(partition_order(rows["scenario_partition"]))
    panel = [c for c in ("train_loss", "val_accuracy") if rows[c].notna().any()] or ["train_loss"]
    figure, axes = panels([2.6] * len(panel), _entries(look), sharex=True)
    for axis, column in zip(axes, panel, strict=True):
        for i, (name, own) in enumerate(look.items()):
            lines = rows[rows["scenario_partition"] == name].groupby("epoch")[column].agg(["mean", "min", "max"])
            lines = lines.dropna().rename(index=lambda epoch: epoch + 1)
            axis.fill_between(lines.index, lines["min"], lines["max"], color=own.colour, alpha=0.15, lw=0)
            _draw_curve(axis, lines.index, lines["mean"], own, i)
        axis.set_ylabel("training loss" if column == "train_loss" else "validation\naccuracy (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title(place)
    axes[-1].set_xlabel("epochs done")
    return figure


def _draw_seconds(rows: pd.DataFrame, place: str) -> Figure:
    look = _looks(partition_order(rows["scenario_partition"]))
    figure, (axis,) = panels([2.9], _entries(look))
    for i, (name, own) in enumerate(look.items()):
        lines = rows[rows["scenario_partition"] == name].groupby("epoch")[["seconds", "val_accuracy"]].mean().dropna()
        _draw_curve(axis, lines["seconds"], lines["val_accuracy"], own, i)
    axis.set_title(place)
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("validation accuracy (%)")
    return figure


@style()
def sizes_picture(clusters: pd.DataFrame) -> Picture:
    """Sizes of the clusters from the largest to the smallest, at the largest N of each data set."""
    rows = _largest(clusters)
    look = _looks(partition_order(rows["partitioner"]))
    figure, axes = panels([2.6] * rows["data"].nunique(), _entries(look))
    for axis, (data, here) in zip(axes, rows.groupby("data", sort=False), strict=True):
        for i, (name, own) in enumerate(look.items()):
            cluster = here[here["partitioner"] == name].copy()
            cluster["rank"] = cluster.groupby("seed")["size"].rank(method="first", ascending=False)
            sizes = cluster.groupby("rank")["size"].agg(["mean", "min", "max"])
            x = sizes.index + 0.16 * (i - (len(look) - 1) / 2)
            error = [sizes["mean"] - sizes["min"], sizes["max"] - sizes["mean"]]
            axis.errorbar(x, sizes["mean"], error, **own.line, lw=1, capsize=3)
        axis.set_ylim(0, 1.12 * here["size"].max())
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_title(f"{short(data)}, N = {wording.whole(here['n_identities'].iloc[0])}")
        axis.set_ylabel("identities")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.whole(value)))
    axes[-1].set_xlabel("cluster, from the largest to the smallest")
    seeds = wording.seeds_phrase(list(rows.groupby(["data", "partitioner"])["seed"].nunique()))
    return Picture(
        "cluster_sizes",
        f"Identities in each cluster. Points: mean over seeds ({seeds}); bars: smallest to largest.",
        f"Cluster sizes of {', '.join(map(partition_title, look))}.",
        to_png(figure),
    )


@style()
def map_picture(clusters: pd.DataFrame) -> Picture | None:
    """Each cluster's similarity within against that to the others, at the largest N of each data set.

    Returns:
        The figure, or None where the similarities are blank.
    """
    rows = _largest(clusters).dropna(subset=["within_similarity", "between_similarity"])
    if rows.empty:
        return None
    look = _looks(partition_order(rows["partitioner"]))
    figure, axes = panels([3.2] * rows["data"].nunique(), _entries(look), lines=False)
    for axis, (data, here) in zip(axes, rows.groupby("data", sort=False), strict=True):
        for name, own in look.items():
            cluster = here[here["partitioner"] == name]
            area = 30 + 170 * cluster["size"] / here["size"].max()
            x, y = cluster["between_similarity"], cluster["within_similarity"]
            mark: dict[str, Any] = {"marker": own.marker, "linewidths": 0.6, "edgecolors": "white"}
            axis.scatter(x, y, area, own.colour, alpha=0.6, **mark)
        axis.margins(0.12)
        axis.set_title(f"{short(data)}, N = {wording.whole(here['n_identities'].iloc[0])}")
        axis.set_ylabel("cosine of members with own centre")
    axes[-1].set_xlabel("cosine of centre with the closest other centre")
    return Picture(
        "cluster_map",
        "Map of the clusters: similarity within a cluster against similarity to the others; area: its identities. One "
        "mark for each cluster and seed. The higher and the further left, the better a cluster is set apart.",
        "Similarity within each cluster against similarity between clusters.",
        to_png(figure),
    )
