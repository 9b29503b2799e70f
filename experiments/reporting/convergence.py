# SPDX-License-Identifier: MIT
"""Convergence of the training, from details/history.csv: figures, a table, and a warning in one sentence."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.reporting import methods
from experiments.reporting.canvas import drawn, legend_entries, panels, place_title, style
from experiments.reporting.document import Picture, Table, place_table
from experiments.reporting.number_formats import percent, points, seeds_phrase, three_digits

UNFINISHED = 0.5  # points of validation accuracy gained in the last tenth of the epochs
_MOST_NAMED = 3
_AXES = {"epochs": "epochs done", "seconds": "seconds of training", "train_loss": "training loss"}
_AXES["val_accuracy"] = "validation\naccuracy (%)"


def _course(rows: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Mean loss and validation accuracy of each epoch, and the accuracy gained in their last tenth (or NaN)."""
    means = rows.groupby("epoch")[["train_loss", "val_accuracy"]].mean()
    tail = max(1, math.ceil((int(rows["epoch"].max()) - rows["epoch"].min() + 1) / 10))
    accuracy = means["val_accuracy"]
    return means, accuracy.iloc[-1] - accuracy.iloc[-1 - tail] if len(means) > tail else math.nan


def unfinished_remark(history: pd.DataFrame) -> str:
    """A sentence that names the partitions that were still learning at the largest N; "" if there are none."""
    rows = history[history["n_identities"] == history["n_identities"].max()]
    gains = {name: _course(group)[1] for name, group in rows.groupby("scenario_partition", sort=False)}
    rising = sorted((name for name in gains if gains[name] >= UNFINISHED), key=lambda name: -gains[name])
    if not rising:
        return ""
    said = ", ".join(f"{methods.partition_title(name)} ({points(gains[name])} points)" for name in rising[:_MOST_NAMED])
    if len(rising) > _MOST_NAMED:
        said += f" and {len(rising) - _MOST_NAMED} others (see the table of convergence)"
    return (
        f"Training had not converged: validation accuracy still rose in the last tenth of the epochs for {said}. "
        "More epochs may change the order."
    )


def convergence_table(history: pd.DataFrame) -> Table:
    """The last losses and accuracies and how fast they still changed, by partition."""
    keys, order = ["data", "n_identities", "scenario_partition"], methods.partition_order(history["scenario_partition"])
    groups = methods.with_data_title(history).groupby(keys, sort=False)
    body = []
    for (data, n_identities, name), rows in sorted(groups, key=lambda one: (*one[0][:2], order.index(one[0][2]))):
        means, gain = _course(rows)
        networks = len(rows[["seed", "cluster"]].drop_duplicates())
        body.append((methods.partition_title(name), data, n_identities, networks, len(means), *means.iloc[-1], gain))
    headings = ["Partition", "Data", "N", "Sub-networks", "Epochs", "Last training loss"]
    headings += ["Last validation accuracy (%)", "Gain in the last tenth (points)"]
    note = (
        "Means over sub-networks and seeds. A gain well above 0 in the last tenth of the epochs (one epoch at least): "
        "training had not converged, so the scores may not be the best that the scenario can reach."
    )
    formats = dict(zip(headings[5:], (three_digits, percent, points), strict=True))
    return place_table("How far training had come", pd.DataFrame(body, columns=headings), formats, note)


@style()
def convergence_pictures(history: pd.DataFrame) -> list[Picture]:
    """Loss and validation accuracy against epoch and, if known, seconds, at the largest N of each data set."""
    curves = _curves(methods.at_largest_n(methods.with_data_title(history)))
    pictures = []
    for i, (data, rows) in enumerate(curves.groupby("data", sort=False), start=1):
        seeds = seeds_phrase(list(rows.groupby("scenario_partition")["seed"].nunique()))
        caption = (
            f"Convergence on {data}: mean over sub-networks and seeds ({seeds}); band: lowest to highest seed. "
            "Validation accuracy is each sub-network's on its own identities, which is easier the fewer they are."
        )
        alt = f"Training loss and validation accuracy against epoch on {data}."
        measured = [c for c in ("train_loss", "val_accuracy") if rows[c].notna().any()] or ["train_loss"]
        pictures.append(Picture(f"convergence_{i}", caption, alt, *drawn(_draw(rows, "epochs", measured))))
        if rows[["seconds", "val_accuracy"]].notna().all(axis=1).any():
            caption = (
                f"Validation accuracy on {data} against the seconds spent, all sub-networks one after the other; "
                f"mean over seeds ({seeds}); band: lowest to highest seed."
            )
            alt = f"Validation accuracy against training seconds on {data}."
            pictures.append(Picture(f"learning_seconds_{i}", caption, alt, *drawn(_draw(rows, "seconds"))))
    return pictures


def _curves(history: pd.DataFrame) -> pd.DataFrame:
    """Per data set, partition, seed and epoch: mean loss and accuracy over clusters and serial seconds so far."""
    keys = ["data", "n_identities", "scenario_partition", "seed"]
    epochs = history.groupby([*keys, "epoch"])[["train_loss", "val_accuracy"]].mean()
    epochs["seconds"] = history.groupby([*keys, "epoch"])["epoch_seconds"].sum(min_count=1)
    epochs["seconds"] = epochs.groupby(level=keys)["seconds"].cumsum()
    epochs = epochs.reset_index()
    return epochs.assign(epochs=epochs["epoch"] + 1)


def _draw(rows: pd.DataFrame, x: str, measured: Sequence[str] = ("val_accuracy",)) -> Figure:
    """A panel for each column in `measured`, against the column `x`: a line and a band for each partition."""
    look = methods.partition_looks(rows["scenario_partition"])
    figure, axes = panels([2.7] * len(measured), legend_entries(look, methods.partition_title), sharex=True)
    for axis, y in zip(axes, measured, strict=True):
        for i, (name, own) in enumerate(look.items()):
            epochs = rows[rows["scenario_partition"] == name].dropna(subset=[x, y]).groupby("epoch")
            lines, step = epochs[[x, y]].mean(), max(1, epochs.ngroups // 7)
            axis.fill_between(lines[x], epochs[y].min(), epochs[y].max(), color=own.colour, alpha=0.15, lw=0)
            # Staggered markers tell lines on top of each other apart.
            places = (i * step // 3 % step, step)
            axis.plot(lines[x], lines[y], **own.line, markevery=places, markeredgecolor="white")
        axis.set_ylabel(_AXES[y])
    axes[0].set_title(place_title(rows))
    axes[-1].set_xlabel(_AXES[x])
    if x == "epochs":
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
