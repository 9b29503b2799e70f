# SPDX-License-Identifier: MIT
"""Tables and verdict of the multi-label report; metrics in percent, means over seeds."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from datamodules.multilabel import MultiLabelSet
from experiments.label_clusters.config import Settings

METHOD, GATED, RIVAL = "label_clusters", "label_clusters_gated", "binary_relevance_network"
PUBLISHED = ["precision", "accuracy", "hamming_loss", "f1"]
EXAMPLE_BASED = ["precision", "recall", "accuracy", "hamming_loss", "f1"]
F1 = {"fixed": "f1", "validated": "validated_f1"}  # by threshold
Opened = Sequence[tuple[MultiLabelSet, Settings]]


def report_tables(frame: pd.DataFrame, opened: Opened) -> dict[str, pd.DataFrame]:
    """All tables by caption, without empty ones."""
    found = {"Data sets": data_table(opened), "Networks, layers, epochs, time": settings_table(frame, opened)}
    at_k = [column for column in frame if column.startswith("precision_at_")]
    for data, settings in opened:
        own = frame.loc[frame["dataset"] == data.name]
        honest, leaky = own.loc[own["protocol"] == "honest"], own["protocol"] == "leaky"
        published = pd.DataFrame(
            {"method": f"paper: {name}", **{metric: 100 * values[metric] for metric in PUBLISHED if metric in values}}
            for name, values in settings.published.items()
        )
        table = _means(honest, [*EXAMPLE_BASED, "validated_threshold", "validated_f1", "train_seconds"])
        if "note" in honest and honest["note"].fillna("").ne("").any():
            table["note"] = honest.groupby("method", sort=False)["note"].first().to_numpy()
        table = pd.concat([table, published], ignore_index=True)
        found[f"{data.name}: example-based metrics"] = table.fillna({"note": ""}) if "note" in table else table
        ranking = ["micro_f1", "macro_f1", "validated_micro_f1", "validated_macro_f1", *at_k]
        found[f"{data.name}: ranking, micro and macro"] = _means(honest, ranking)
        if leaky.any():
            table = _means(own.loc[(own["method"] == METHOD) | leaky], [*EXAMPLE_BASED, "validated_f1"])
            table = pd.concat([table, published], ignore_index=True)
            found[f"{data.name}: honest and leaky readings beside the paper's"] = table
    found["Gain in F1"] = gains(frame, opened).rename(columns={"gain": "gain in points"})
    return {caption: table for caption, table in found.items() if len(table)}


def data_table(opened: Opened) -> pd.DataFrame:
    """A row per data set: cardinality is labels per row; imbalance after Charte et al. (2015)."""
    return pd.DataFrame(
        {
            "dataset": data.name, "rows": len(data), "features": data.features.shape[1],
            "labels": data.labels.shape[1], "cardinality": data.labels.sum(axis=1).mean(),
            "distinct label sets": len(np.unique(np.packbits(data.labels, axis=1), axis=0)),
            "rows without label": int((~data.labels.any(axis=1)).sum()),
            "mean imbalance": data.imbalance_ratios().mean(), "CVIR": data.cvir(),
        }
        for data, _ in opened
    )  # fmt: skip


def settings_table(frame: pd.DataFrame, opened: Opened) -> pd.DataFrame:
    """Settings and seconds of the method, and the paper's hours in seconds."""
    rows = []
    for data, settings in opened:
        values = {name: "none" if value is None else value for name, value in asdict(settings).items()}
        own = frame.loc[(frame["dataset"] == data.name) & (frame["method"] == METHOD)]
        own = own.reindex(columns=["epochs", "train_seconds"]).mean()
        names = ("hidden_layers", "hidden", "dropout", "epochs", "patience", "batch_size", "learning_rate")
        rows.append({
            "dataset": data.name, "networks": values["label_clusters"], **{name: values[name] for name in names},
            "epochs run": own["epochs"], "train_seconds": own["train_seconds"],
            "paper's seconds": settings.published.get(METHOD, {}).get("hours", float("nan")) * 3600,
        })  # fmt: skip
    return pd.DataFrame(rows)


def gains(frame: pd.DataFrame, opened: Opened) -> pd.DataFrame:
    """F1 of the method minus that of the best honest baseline, in points, per data set and threshold.

    Returns:
        Columns dataset, CVIR, against, threshold, gain; empty if the method or all baselines are missing.
    """
    rows = []
    for data, settings in opened:
        honest = _honest_f1(frame, data.name).dropna(subset="f1")
        for threshold, column in F1.items():
            means = honest[column]
            others = means[[name for name in means.index if not name.startswith(METHOD)]]
            if METHOD not in means or others.empty:
                continue
            for against in dict.fromkeys([others.idxmax(), *([RIVAL] if RIVAL in others else [])]):
                rows.append((data.name, data.cvir(), against, threshold, means[METHOD] - others[against]))
        claimed = {name: values["f1"] for name, values in settings.published.items() if "f1" in values}
        rivals = {name: value for name, value in claimed.items() if name != METHOD}
        if METHOD in claimed and rivals:
            best = max(rivals, key=rivals.get)
            rows.append((data.name, data.cvir(), best, "the paper's", 100 * (claimed[METHOD] - rivals[best])))
    return pd.DataFrame(rows, columns=["dataset", "CVIR", "against", "threshold", "gain"])


def sentence(frame: pd.DataFrame) -> str:
    """The verdict: the method against binary relevance with the same perceptron, on every data set."""
    parts = []
    for dataset in dict.fromkeys(frame["dataset"]):
        means = _honest_f1(frame, dataset)
        if METHOD in means.index and RIVAL in means.index:
            ours, theirs = means.loc[METHOD], means.loc[RIVAL]
            gated = means.loc[GATED] if GATED in means.index else ours
            behind = [name for name, column in F1.items() if ours[column] < theirs[column]]
            mended = [name for name in behind if gated[F1[name]] >= theirs[F1[name]]]
            part = f"{dataset}: honest F1 {ours['f1']:.2f} % with label clusters and {theirs['f1']:.2f} % with binary "
            part += f"relevance and the same MLP ({ours['validated_f1']:.2f} and {theirs['validated_f1']:.2f} % at a "
            part += "validated threshold)"
            if behind:
                part += f", so the clusters do not reach binary relevance at the {' and the '.join(behind)} threshold"
            if mended:
                reached = " and ".join(f"{gated[F1[name]]:.2f} % at the {name}" for name in mended)
                part += f"; with the gate they do ({reached} one)"
            parts.append(part)
        elif means["f1"].notna().any():
            best = means["f1"].idxmax()
            parts.append(f"{dataset}: the highest honest F1 is {means['f1'].max():.2f} %, by {best}")
    return "; ".join(parts) + "." if parts else "No method was feasible."


def _honest_f1(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Mean F1 over seeds by method, at both thresholds."""
    honest = frame.loc[(frame["dataset"] == dataset) & (frame["protocol"] == "honest")]
    return honest.reindex(columns=["method", *F1.values()]).groupby("method").mean()


def _means(own: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean over seeds in the order of first appearance; with several seeds the sample deviations of F1 too."""
    columns, grouped = [column for column in columns if column in own], own.groupby("method", sort=False)
    table = grouped[columns].mean()
    if own["seed"].nunique() > 1:
        for column in {"f1", "validated_f1"}.intersection(columns):
            table.insert(table.columns.get_loc(column) + 1, f"{column}_std", grouped[column].std())
    return table.reset_index()
