# SPDX-License-Identifier: MIT
"""The clusters of every partitioner on the same map of the class means, and their sizes and similarities as a table."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.reporting import wording
from experiments.reporting.canvas import WIDTH_INCHES, short, style, to_png
from experiments.reporting.document import Cell, Picture, Table, place_table, written
from experiments.reporting.methods import at_largest_n, data_title, partition_order, partitioner_title

# Tol's "muted" colours; with five markers 45 clusters can be told apart.
_COLOURS = ("#332288", "#cc6677", "#117733", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
_MARKERS = "os^DP"
COLUMNS = 2


@style()
def map_pictures(rows: pd.DataFrame) -> list[Picture]:
    """A figure for each data set at its largest N: one panel per partitioner, one mark per identity."""
    rows = at_largest_n(rows.assign(data=rows["dataset"].map(data_title)))
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
                to_png(_draw(here, names)),
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
    """Sizes and similarities of the clusters of each partitioner."""
    clusters = clusters.assign(data=clusters["dataset"].map(data_title))
    groups = clusters.groupby(["data", "n_identities", "partitioner"], sort=False)
    order = partition_order(clusters["partitioner"])
    body = []
    for (data, n, name), rows in sorted(groups, key=lambda one: (*one[0][:2], order.index(one[0][2]))):
        sizes = rows.groupby("seed")["size"]
        similarities = [
            float((rows[column] * rows["size"]).sum() / rows["size"].where(rows[column].notna()).sum())
            for column in ("within_similarity", "between_similarity")
        ]
        counts = [written(count) for count in (n, rows["size"].min(), rows["size"].max())]
        ratios = [float((sizes.max() / sizes.mean()).mean()), *similarities]
        shown = [written(ratio, wording.three_digits) for ratio in ratios]
        body.append([Cell(partitioner_title(name)), Cell(data), *counts, *shown])
    columns = ("Partition", "Data", "N", "Smallest", "Largest", "Largest / mean", "Cosine within", "Cosine between")
    note = (
        "Over all seeds. Within: mean cosine of class means with their own centre; between: with the closest other "
        "centre. Largest / mean bounds how far training in parallel falls short of m devices."
    )
    return place_table("Clusters of each partitioner", columns, body, note)
