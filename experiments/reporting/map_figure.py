# SPDX-License-Identifier: MIT
"""The clusters of every partitioner on the same map of the class means, and their sizes and similarities as a table."""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from experiments.reporting import wording
from experiments.reporting.canvas import WIDTH_INCHES, short, to_png
from experiments.reporting.document import Cell, Picture, Table, drop_constant, number_cell
from experiments.reporting.methods import data_title, partition_order, partitioner_title

# Tol's "muted" colours; with five markers 45 clusters can be told apart.
_COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
_MARKERS = "os^DP"
COLUMNS = 2


def map_pictures(rows: pd.DataFrame) -> list[Picture]:
    """A figure for each data set at its largest N: one panel per partitioner, one mark per identity.

    Args:
        rows: details/map.csv.
    """
    rows = rows.assign(data=rows["dataset"].map(data_title))
    rows = rows[rows["n_identities"] == rows.groupby("data")["n_identities"].transform("max")]
    pictures = []
    for i, (data, here) in enumerate(rows.groupby("data", sort=True)):
        names = partition_order(here["partitioner"])
        n, m = here["n_identities"].iloc[0], here["n_subnets"].iloc[0]
        pictures.append(
            Picture(
                f"partition_map{f'_{i + 1}' if i else ''}",
                f"Class means of {wording.whole(here['label'].nunique())} of {wording.whole(n)} identities of {data} "
                f"in the plane (t-SNE, the same in every panel), coloured by cluster, m = {wording.whole(m)}, one "
                "seed. Identities that are close in the plane are similar; distances between groups say little.",
                f"Map of the clusters of {', '.join(partitioner_title(name) for name in names)} on {data}.",
                to_png(partial(_draw, here, names)),
            )
        )
    return pictures


def _draw(here: pd.DataFrame, names: list[str]) -> Figure:
    lines = -(-len(names) // COLUMNS)
    side = WIDTH_INCHES / COLUMNS
    figure = Figure(figsize=(WIDTH_INCHES, lines * (side + 0.15)), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes, names, strict=False):
        own = here[here["partitioner"] == name]
        for cluster, points in own.groupby("cluster"):
            c = int(cluster)
            axis.scatter(
                points["x"], points["y"], s=9, color=_COLOURS[c % len(_COLOURS)],
                marker=_MARKERS[c // len(_COLOURS) % len(_MARKERS)], linewidths=0, alpha=0.8,
            )  # fmt: skip
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[], yticks=[], aspect="equal")
        axis.set_title(short(partitioner_title(name), 30), fontsize=10)
    return figure


def partitions_table(clusters: pd.DataFrame) -> Table:
    """Sizes and similarities of the clusters of each partitioner.

    Args:
        clusters: details/clusters.csv.
    """
    clusters = clusters.assign(data=clusters["dataset"].map(data_title))
    groups = clusters.groupby(["data", "n_identities", "partitioner"], sort=False)
    order = partition_order(clusters["partitioner"])
    body = []
    for key in sorted(groups.groups, key=lambda key: (key[0], key[1], order.index(key[2]))):
        rows = groups.get_group(key)
        sizes = rows.groupby("seed")["size"]
        within, between = (
            float((rows[name] * rows["size"]).sum() / rows["size"].where(rows[name].notna()).sum())
            for name in ("within_similarity", "between_similarity")
        )
        largest = float((sizes.max() / sizes.mean()).mean())
        body.append((
            Cell(partitioner_title(key[2])), Cell(key[0]),
            number_cell(wording.whole(key[1]), key[1]),
            number_cell(wording.whole(rows["size"].min()), rows["size"].min()),
            number_cell(wording.whole(rows["size"].max()), rows["size"].max()),
            number_cell(wording.three_digits(largest), largest),
            number_cell(wording.three_digits(within), within),
            number_cell(wording.three_digits(between), between),
        ))  # fmt: skip
    columns = ("Partition", "Data", "N", "Smallest", "Largest", "Largest / mean", "Cosine within", "Cosine between")
    note = (
        "Over all seeds. Within: mean cosine of class means with their own centre; between: with the closest other "
        "centre. Largest / mean bounds how far training in parallel falls short of m devices."
    )
    return drop_constant(Table("Clusters of each partitioner", columns, tuple(body), note), ("Data", "N"))
