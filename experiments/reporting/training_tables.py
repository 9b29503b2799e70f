# SPDX-License-Identifier: MIT
"""Tables of the optional details: convergence, slow and bad clusters, hard identities."""

import math

import pandas as pd

from experiments.reporting import wording
from experiments.reporting.document import Cell, Table, drop_constant, number_cell
from experiments.reporting.methods import data_title, partition_order, partition_title, scenario_order, scenario_title

UNFINISHED = 0.5  # points of validation accuracy gained in the last tenth of the epochs


def _course(rows: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Mean loss and validation accuracy of each epoch, and the accuracy gained in their last tenth (or NaN)."""
    means = rows.groupby("epoch")[["train_loss", "val_accuracy"]].mean()
    tail = max(1, math.ceil((int(rows["epoch"].max()) - rows["epoch"].min() + 1) / 10))
    accuracy = means["val_accuracy"]
    return means, accuracy.iloc[-1] - accuracy.iloc[-1 - tail] if len(means) > tail else math.nan


def unfinished_remark(history: pd.DataFrame) -> str:
    """One sentence that names what was still learning when training stopped, at the largest N; "" where nothing was.

    Args:
        history: details/history.csv.
    """
    rows = history[history["n_identities"] == history["n_identities"].max()]
    gains = {name: _course(group)[1] for name, group in rows.groupby("scenario_partition", sort=False)}
    rising = [name for name in partition_order(rows["scenario_partition"]) if gains[name] >= UNFINISHED]
    if not rising:
        return ""
    said = ", ".join(f"{partition_title(name)} ({wording.points(gains[name])} points)" for name in rising)
    return (
        f"Training had not converged: validation accuracy still rose in the last tenth of the epochs for {said}. "
        "More epochs may change the order."
    )


def convergence_table(history: pd.DataFrame) -> Table:
    """How far training had come when it stopped, so that an unfinished network is not taken for a bad method.

    Args:
        history: details/history.csv.
    """
    history = history.assign(data=history["dataset"].map(data_title))
    order = partition_order(history["scenario_partition"])
    groups = history.groupby(["data", "n_identities", "scenario_partition"], sort=False)
    body = []
    for key in sorted(groups.groups, key=lambda key: (key[0], key[1], order.index(key[2]))):
        (data, n_identities, name), rows = key, groups.get_group(key)
        means, gain = _course(rows)
        final = means.iloc[-1]
        networks = len(rows[["seed", "cluster"]].drop_duplicates())
        body.append(
            (
                Cell(partition_title(name)),
                Cell(data),
                number_cell(wording.whole(n_identities), n_identities),
                number_cell(wording.whole(networks), networks),
                number_cell(wording.whole(len(means)), len(means)),
                number_cell(wording.three_digits(final["train_loss"]), final["train_loss"]),
                number_cell(wording.percent(final["val_accuracy"]), final["val_accuracy"]),
                number_cell(wording.points(gain), gain),
            )
        )
    table = Table(
        "How far training had come",
        (
            "Partition",
            "Data",
            "N",
            "Sub-networks",
            "Epochs",
            "Last training loss",
            "Last validation accuracy (%)",
            "Gain in the last tenth (points)",
        ),
        tuple(body),
        "Means over sub-networks and seeds. A gain well above 0 in the last tenth of the epochs (one epoch at least): "
        "training had not converged, so the scores may not be the best that the scenario can reach.",
    )
    return drop_constant(table, ("Data", "N"))


def _cluster_cells(row: pd.Series, partition: str) -> list[Cell]:
    cells = [Cell(f"cluster {row['cluster']:.0f}", row["cluster"]), Cell(partition_title(row[partition]))]
    cells += [Cell(data_title(row["dataset"])), number_cell(wording.whole(row["n_identities"]), row["n_identities"])]
    return [*cells, number_cell(wording.whole(row["seed"]), row["seed"])]


def slowest_table(history: pd.DataFrame, count: int = 10) -> Table | None:
    """The sub-networks that took longest to train.

    Args:
        history: details/history.csv.
        count: rows at most.

    Returns:
        The table, or None where no epoch was timed.
    """
    keys = ["dataset", "n_identities", "scenario_partition", "seed", "cluster"]
    group = history.groupby(keys)
    times = pd.DataFrame(
        {
            "total": group["epoch_seconds"].sum(min_count=1),
            "epochs": group["epoch"].nunique(),
            "samples": group["samples_per_second"].mean(),
        }
    )
    times = (
        times.dropna(subset=["total"]).sort_values("total", ascending=False, kind="stable").head(count).reset_index()
    )
    if times.empty:
        return None
    body = tuple(
        (
            *_cluster_cells(row, "scenario_partition"),
            number_cell(wording.seconds(row["total"]), row["total"]),
            number_cell(wording.seconds(row["total"] / row["epochs"]), row["total"] / row["epochs"]),
            number_cell(wording.three_digits(row["samples"]), row["samples"]),
        )
        for _, row in times.iterrows()
    )
    columns = ("Sub-network", "Partition", "Data", "N", "Seed", "Training (s)", "Per epoch (s)", "Samples/s")
    return drop_constant(Table(f"The {len(body)} slowest sub-networks", columns, body), ("Data", "N"))


def worst_table(clusters: pd.DataFrame, count: int = 10) -> Table | None:
    """The clusters with the lowest test recall.

    Args:
        clusters: details/clusters.csv.
        count: rows at most.

    Returns:
        The table, or None where no cluster has a recall.
    """
    rows = clusters.dropna(subset=["test_recall"]).sort_values("test_recall", kind="stable").head(count)
    if rows.empty:
        return None
    body = tuple(
        (
            *_cluster_cells(row, "partitioner"),
            number_cell(wording.percent(row["test_recall"]), row["test_recall"]),
            number_cell(wording.whole(row["size"]), row["size"]),
            number_cell(wording.three_digits(row["within_similarity"]), row["within_similarity"]),
            number_cell(wording.three_digits(row["between_similarity"]), row["between_similarity"]),
        )
        for _, row in rows.iterrows()
    )
    columns = ("Cluster", "Partition", "Data", "N", "Seed", "Test recall (%)", "Identities", "Cosine within", "Between")
    note = "Recall of the identities in a cluster, mean over the scenarios that use its partition."
    return drop_constant(Table(f"The {len(body)} clusters of lowest recall", columns, body, note), ("Data", "N"))


def hardest_table(identities: pd.DataFrame, count: int = 20) -> Table:
    """The identities with the lowest recall, over all scenarios that report them.

    Args:
        identities: details/identities.csv.
        count: rows at most.
    """
    recall = identities.pivot_table("recall", "identity", "scenario", aggfunc="mean")
    samples = identities.groupby("identity")["test_samples"].max()
    scenarios = scenario_order(list(recall.columns))
    hardest = pd.DataFrame({"scenarios": -recall.notna().sum(axis=1), "recall": recall.mean(axis=1)})
    order = hardest.sort_values(["scenarios", "recall"], kind="stable").head(count).index
    body = tuple(
        (
            Cell(str(identity)),
            *(number_cell(wording.percent(recall.at[identity, s]), recall.at[identity, s]) for s in scenarios),
            number_cell(wording.whole(samples[identity]), samples[identity]),
        )
        for identity in order
    )
    return Table(
        f"The {len(body)} hardest identities: recall (%)",
        ("Identity", *(scenario_title(s) for s in scenarios), "Test images"),
        body,
        "Every seed and N names the hardest identities of each scenario; a number is the mean over those that name "
        "this one. First those that are hard for the most scenarios; a dash: not among that scenario's hardest.",
    )


def skipped_table(skipped: pd.DataFrame) -> Table:
    """Which rows of the comparison have no numbers, and why.

    Args:
        skipped: details/skipped.csv.
    """
    groups = skipped.assign(data=skipped["dataset"].map(data_title)).groupby(
        ["scenario", "data", "n_identities", "reason"], sort=True
    )
    body = tuple(
        (Cell(scenario_title(scenario)), Cell(data), number_cell(wording.whole(n), n), Cell(reason))
        for scenario, data, n, reason in groups.groups
    )
    return Table("Rows without numbers", ("Scenario", "Data", "N", "Reason"), body)
