# SPDX-License-Identifier: MIT
"""Tables of the optional details: convergence, slow and bad clusters, hard identities."""

import math

import pandas as pd

from experiments.reporting.document import Cell, Table, place_table, written
from experiments.reporting.methods import data_title, partition_order, partition_title, scenario_order, scenario_title
from experiments.reporting.wording import percent, points, seconds, three_digits

UNFINISHED = 0.5  # points of validation accuracy gained in the last tenth of the epochs


def _course(rows: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Mean loss and validation accuracy of each epoch, and the accuracy gained in their last tenth (or NaN)."""
    means = rows.groupby("epoch")[["train_loss", "val_accuracy"]].mean()
    tail = max(1, math.ceil((int(rows["epoch"].max()) - rows["epoch"].min() + 1) / 10))
    accuracy = means["val_accuracy"]
    return means, accuracy.iloc[-1] - accuracy.iloc[-1 - tail] if len(means) > tail else math.nan


def unfinished_remark(history: pd.DataFrame) -> str:
    """One sentence that names what was still learning when training stopped, at the largest N; "" where nothing was."""
    rows = history[history["n_identities"] == history["n_identities"].max()]
    gains = {name: _course(group)[1] for name, group in rows.groupby("scenario_partition", sort=False)}
    rising = [name for name in partition_order(rows["scenario_partition"]) if gains[name] >= UNFINISHED]
    if not rising:
        return ""
    said = ", ".join(f"{partition_title(name)} ({points(gains[name])} points)" for name in rising)
    return (
        f"Training had not converged: validation accuracy still rose in the last tenth of the epochs for {said}. "
        "More epochs may change the order."
    )


def convergence_table(history: pd.DataFrame) -> Table:
    """How far training had come when it stopped, so that an unfinished network is not taken for a bad method."""
    history = history.assign(data=history["dataset"].map(data_title))
    order = partition_order(history["scenario_partition"])
    groups = history.groupby(["data", "n_identities", "scenario_partition"], sort=False)
    body = []
    for (data, n_identities, name), rows in sorted(groups, key=lambda one: (*one[0][:2], order.index(one[0][2]))):
        means, gain = _course(rows)
        networks = len(rows[["seed", "cluster"]].drop_duplicates())
        loss, accuracy = means.iloc[-1]
        counts = [written(count) for count in (n_identities, networks, len(means))]
        scores = [written(loss, three_digits), written(accuracy, percent), written(gain, points)]
        body.append([Cell(partition_title(name)), Cell(data), *counts, *scores])
    columns = ["Partition", "Data", "N", "Sub-networks", "Epochs", "Last training loss"]
    columns += ["Last validation accuracy (%)", "Gain in the last tenth (points)"]
    note = (
        "Means over sub-networks and seeds. A gain well above 0 in the last tenth of the epochs (one epoch at least): "
        "training had not converged, so the scores may not be the best that the scenario can reach."
    )
    return place_table("How far training had come", columns, body, note)


def _cluster_cells(row: pd.Series, partition: str) -> list[Cell]:
    cluster = Cell(f"cluster {row['cluster']:.0f}", row["cluster"])
    place = [Cell(data_title(row["dataset"])), written(row["n_identities"]), written(row["seed"])]
    return [cluster, Cell(partition_title(row[partition])), *place]


def slowest_table(history: pd.DataFrame) -> Table | None:
    """The ten sub-networks that took longest to train; None where no epoch was timed."""
    group = history.groupby(["dataset", "n_identities", "scenario_partition", "seed", "cluster"])
    times = pd.DataFrame({"total": group["epoch_seconds"].sum(min_count=1), "epochs": group["epoch"].nunique()})
    times["epoch"] = times["total"] / times["epochs"]
    times["samples"] = group["samples_per_second"].mean()
    times = times.dropna(subset=["total"]).sort_values("total", ascending=False, kind="stable").head(10)
    if times.empty:
        return None
    body = []
    for _, row in times.reset_index().iterrows():
        cells = [written(row["total"], seconds), written(row["epoch"], seconds), written(row["samples"], three_digits)]
        body.append([*_cluster_cells(row, "scenario_partition"), *cells])
    columns = ("Sub-network", "Partition", "Data", "N", "Seed", "Training (s)", "Per epoch (s)", "Samples/s")
    return place_table(f"The {len(body)} slowest sub-networks", columns, body)


def worst_table(clusters: pd.DataFrame, count: int = 10) -> Table | None:
    """The `count` clusters with the lowest test recall; None where no cluster has a recall."""
    rows = clusters.dropna(subset=["test_recall"]).sort_values("test_recall", kind="stable").head(count)
    if rows.empty:
        return None
    body = []
    for _, row in rows.iterrows():
        similarities = [written(row[name], three_digits) for name in ("within_similarity", "between_similarity")]
        measured = [written(row["test_recall"], percent), written(row["size"]), *similarities]
        body.append([*_cluster_cells(row, "partitioner"), *measured])
    columns = ("Cluster", "Partition", "Data", "N", "Seed", "Test recall (%)", "Identities", "Cosine within", "Between")
    note = "Recall of the identities in a cluster, mean over the scenarios that use its partition."
    return place_table(f"The {len(body)} clusters of lowest recall", columns, body, note)


def hardest_table(identities: pd.DataFrame, count: int = 20) -> Table:
    """The `count` identities with the lowest recall, over all scenarios that report them."""
    recall = identities.pivot_table("recall", "identity", "scenario", aggfunc="mean")
    recall = recall[scenario_order(recall.columns)]
    samples = identities.groupby("identity")["test_samples"].max()
    hardest = pd.DataFrame({"scenarios": -recall.notna().sum(axis=1), "recall": recall.mean(axis=1)})
    order = hardest.sort_values(["scenarios", "recall"], kind="stable").head(count).index
    body = tuple(
        (Cell(str(identity)), *(written(value, percent) for value in recall.loc[identity]), written(samples[identity]))
        for identity in order
    )
    return Table(
        f"The {len(body)} hardest identities: recall (%)",
        ("Identity", *map(scenario_title, recall.columns), "Test images"),
        body,
        "Every seed and N names the hardest identities of each scenario; a number is the mean over those that name "
        "this one. First those that are hard for the most scenarios; a dash: not among that scenario's hardest.",
    )


def skipped_table(skipped: pd.DataFrame) -> Table:
    """Which rows of the comparison have no numbers, and why."""
    skipped = skipped.assign(data=skipped["dataset"].map(data_title))
    rows = skipped[["scenario", "data", "n_identities", "reason"]].drop_duplicates()
    rows = rows.sort_values(list(rows.columns)).itertuples(index=False)
    body = tuple((Cell(scenario_title(name)), Cell(data), written(n), Cell(reason)) for name, data, n, reason in rows)
    return Table("Rows without numbers", ("Scenario", "Data", "N", "Reason"), body)
