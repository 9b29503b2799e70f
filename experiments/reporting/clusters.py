# SPDX-License-Identifier: MIT
"""Sizes, similarities, maps, recall and training time of the clusters, as figures and tables."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.reporting import methods
from experiments.reporting.canvas import WIDTH_INCHES, drawn, legend_entries, panels, place_title, short, style
from experiments.reporting.document import Picture, Table, place_table
from experiments.reporting.number_formats import percent, seeds_phrase, three_digits, whole

_SIMILARITIES = ["within_similarity", "between_similarity"]
# Tol's "muted" colours; with five markers 45 clusters can be told apart.
_COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
_MARKERS = "os^DP"
_COLUMNS = 2


@style()
def sizes_picture(clusters: pd.DataFrame) -> Picture | None:
    """Sizes of the clusters at the largest N of each data set; None if none has more than two, as the table has all."""
    rows = methods.at_largest_n(methods.with_data_title(clusters))
    rows = rows[rows.groupby("data")["cluster"].transform("max") > 1]
    if rows.empty:
        return None
    look = methods.partition_looks(rows["partitioner"])
    figure, axes = panels([2.6] * rows["data"].nunique(), legend_entries(look, methods.partition_title))
    for axis, (_, here) in zip(axes, rows.groupby("data", sort=False), strict=True):
        for i, (name, own) in enumerate(look.items()):
            cluster = here[here["partitioner"] == name].copy()
            cluster["rank"] = cluster.groupby("seed")["size"].rank(method="first", ascending=False)
            sizes = cluster.groupby("rank")["size"].agg(["mean", "min", "max"])
            x = sizes.index + 0.16 * (i - (len(look) - 1) / 2)
            error = [sizes["mean"] - sizes["min"], sizes["max"] - sizes["mean"]]
            axis.errorbar(x, sizes["mean"], error, **own.line, lw=1, capsize=3)
        axis.set(ylim=(0, 1.12 * here["size"].max()), title=place_title(here), ylabel="identities")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: whole(value)))
    axes[-1].set_xlabel("cluster, from the largest to the smallest")
    seeds = seeds_phrase(list(rows.groupby(["data", "partitioner"])["seed"].nunique()))
    caption = f"Identities in each cluster. Points: mean over seeds ({seeds}); bars: smallest to largest."
    alt = f"Cluster sizes of {', '.join(map(methods.partition_title, look))}."
    return Picture("cluster_sizes", caption, alt, *drawn(figure))


@style()
def similarity_picture(clusters: pd.DataFrame) -> Picture | None:
    """Each cluster's similarity within against that to the others; None if the similarities are blank."""
    rows = methods.at_largest_n(methods.with_data_title(clusters)).dropna(subset=_SIMILARITIES)
    if rows.empty:
        return None
    look = methods.partition_looks(rows["partitioner"])
    figure, axes = panels([3.2] * rows["data"].nunique(), legend_entries(look, methods.partition_title), lines=False)
    for axis, (_, here) in zip(axes, rows.groupby("data", sort=False), strict=True):
        for name, own in look.items():
            cluster = here[here["partitioner"] == name]
            area = 30 + 170 * cluster["size"] / here["size"].max()
            x, y = cluster["between_similarity"], cluster["within_similarity"]
            mark: dict[str, Any] = {"marker": own.marker, "linewidths": 0.6, "edgecolors": "white"}
            axis.scatter(x, y, area, own.colour, alpha=0.6, **mark)
        axis.margins(0.12)
        axis.set(title=place_title(here), ylabel="cosine of members with own centre")
    axes[-1].set_xlabel("cosine of centre with the closest other centre")
    alt = "Similarity within each cluster against similarity between clusters."
    caption = (
        "Similarity within a cluster against similarity to the other clusters; area: its identities. One mark for "
    )
    caption += "each cluster and seed. The higher and the further left, the better a cluster is set apart."
    return Picture("cluster_map", caption, alt, *drawn(figure))


@style()
def map_pictures(rows: pd.DataFrame) -> list[Picture]:
    """The clusters of every partitioner on the same t-SNE map of the class means, at the largest N of each data set."""
    pictures = []
    places = methods.at_largest_n(methods.with_data_title(rows)).groupby("data", sort=True)
    for i, (data, here) in enumerate(places, start=1):
        names, first = methods.partition_order(here["partitioner"]), here.iloc[0]
        caption = (
            f"Class means of {whole(here['label'].nunique())} of {whole(first['n_identities'])} identities of {data} "
            "in the plane (t-SNE, the same in every panel), coloured by cluster, "
            f"m = {whole(first['n_subnets'])}, one seed. "
            "Identities that are close in the plane are similar; distances between groups say little."
        )
        alt = f"Map of the clusters of {', '.join(map(methods.choice_title, names))} on {data}."
        name = f"partition_map_{i}" if i > 1 else "partition_map"
        pictures.append(Picture(name, caption, alt, *drawn(_draw_maps(here, names))))
    return pictures


def _draw_maps(here: pd.DataFrame, names: list[str]) -> Figure:
    lines = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, lines * (WIDTH_INCHES / _COLUMNS + 0.15)), layout="constrained")
    axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes, names, strict=False):
        own = here[here["partitioner"] == name]
        for cluster, points in own.groupby("cluster"):
            row, column = divmod(int(cluster), len(_COLOURS))
            marker = _MARKERS[row % len(_MARKERS)]
            axis.scatter(points["x"], points["y"], 9, _COLOURS[column], marker, linewidths=0, alpha=0.8)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[], yticks=[], aspect="equal")
        axis.set_title(short(methods.choice_title(name), 30), fontsize=10)
    return figure


def partitions_table(clusters: pd.DataFrame) -> Table:
    """Sizes and similarities of the clusters of each partitioner."""
    keys, order = ["data", "n_identities", "partitioner"], methods.partition_order(clusters["partitioner"])
    body = []
    groups = methods.with_data_title(clusters).groupby(keys, sort=False)
    for (data, n, name), rows in sorted(groups, key=lambda one: (*one[0][:2], order.index(one[0][2]))):
        sizes, known = rows.groupby("seed")["size"], rows.dropna(subset=_SIMILARITIES)
        similarities = np.average(known[_SIMILARITIES], axis=0, weights=known["size"]) if len(known) else [math.nan] * 2
        balance = (sizes.max() / sizes.mean()).mean()
        title, bounds = methods.choice_title(name), (rows["size"].min(), rows["size"].max())
        body.append((title, data, n, *bounds, balance, *similarities))
    headings = ["Partition", "Data", "N", "Smallest", "Largest", "Largest / mean", "Cosine within", "Cosine between"]
    note = (
        "Over all seeds. Within: mean cosine of class means with their own centre; between: with the closest other "
        "centre. Largest / mean bounds how far training in parallel falls short of m devices."
    )
    formats = dict.fromkeys(headings[5:], three_digits)
    return place_table("Clusters of each partitioner", pd.DataFrame(body, columns=headings), formats, note)


def _place_columns(rows: pd.DataFrame, heading: str, partition: str) -> dict[str, pd.Series]:
    return {
        heading: rows["cluster"].map("cluster {:.0f}".format),
        "Partition": rows[partition].map(methods.partition_title),
        "Data": rows["dataset"].map(methods.data_title), "N": rows["n_identities"], "Seed": rows["seed"],
    }  # fmt: skip


def worst_table(clusters: pd.DataFrame, count: int = 10) -> Table | None:
    """The `count` clusters with the lowest test recall; None if no cluster has a recall."""
    rows = clusters.dropna(subset=["test_recall"]).sort_values("test_recall", kind="stable").head(count)
    if rows.empty:
        return None
    shown = pd.DataFrame({
        **_place_columns(rows, "Cluster", "partitioner"), "Test recall (%)": rows["test_recall"],
        "Identities": rows["size"], "Cosine within": rows["within_similarity"], "Between": rows["between_similarity"],
    })  # fmt: skip
    note = "Recall of the identities in a cluster, mean over the scenarios that use its partition."
    formats = {"Test recall (%)": percent, "Cosine within": three_digits, "Between": three_digits}
    return place_table(f"The {len(rows)} clusters of lowest recall", shown, formats, note)


def slowest_table(history: pd.DataFrame) -> Table | None:
    """The ten sub-networks that took longest to train; None if no epoch was timed."""
    group = history.groupby(["dataset", "n_identities", "scenario_partition", "seed", "cluster"])
    times = group.agg(epochs=("epoch", "nunique"), samples=("samples_per_second", "mean"))
    times["seconds"] = group["epoch_seconds"].sum(min_count=1)
    rows = times.dropna(subset=["seconds"]).nlargest(10, "seconds").reset_index()
    if rows.empty:
        return None
    shown = pd.DataFrame({
        **_place_columns(rows, "Sub-network", "scenario_partition"), "Training (s)": rows["seconds"],
        "Per epoch (s)": rows["seconds"] / rows["epochs"], "Samples/s": rows["samples"],
    })  # fmt: skip
    formats = dict.fromkeys(("Training (s)", "Per epoch (s)", "Samples/s"), three_digits)
    return place_table(f"The {len(rows)} slowest sub-networks", shown, formats)
