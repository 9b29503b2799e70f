# SPDX-License-Identifier: MIT
"""Tables and verdict of the multi-label report; metrics in percent, means over seeds."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from datamodules.multilabel import MultiLabelSet
from experiments.label_clusters.config import Settings

METHOD, GATED, RIVAL = "label_clusters", "label_clusters_gated", "binary_relevance_network"
EXAMPLE_BASED = ["precision", "recall", "accuracy", "hamming_loss", "f1"]
PUBLISHED = ["precision", "accuracy", "hamming_loss", "f1"]
Opened = Sequence[tuple[MultiLabelSet, Settings]]


def report_tables(frame: pd.DataFrame, opened: Opened) -> dict[str, pd.DataFrame]:
    """All tables, from caption to table."""
    found = {"Data sets": data_table(opened), "Networks, layers, epochs, time": settings_table(frame, opened)}
    for data, settings in opened:
        found[f"{data.name}: example-based metrics"] = metrics_table(frame, data.name, settings)
        found[f"{data.name}: ranking, micro and macro"] = ranking_table(frame, data.name)
        found[f"{data.name}: honest and leaky readings beside the paper's"] = leaky_table(frame, data.name, settings)
    found["Gain in F1"] = gains(frame, opened).rename(columns={"gain": "gain in points"})
    return {caption: table for caption, table in found.items() if len(table)}


def data_table(opened: Opened) -> pd.DataFrame:
    """What the data sets are like: cardinality is labels a row; imbalance after Charte et al. (2015)."""
    rows = [
        {
            "dataset": data.name, "rows": len(data), "features": data.features.shape[1],
            "labels": data.labels.shape[1], "cardinality": data.labels.sum(axis=1).mean(),
            "distinct label sets": len(np.unique(np.packbits(data.labels, axis=1), axis=0)),
            "rows without label": int((~data.labels.any(axis=1)).sum()),
            "mean imbalance": data.imbalance_ratios().mean(), "CVIR": data.cvir(),
        }
        for data, _ in opened
    ]  # fmt: skip
    return pd.DataFrame(rows)


def settings_table(frame: pd.DataFrame, opened: Opened) -> pd.DataFrame:
    """Settings and seconds of the method, and the paper's hours in seconds."""
    rows = []
    for data, settings in opened:
        values = {name: "none" if value is None else value for name, value in asdict(settings).items()}
        own = _of(frame, data.name).loc[lambda each: each["method"] == METHOD]
        own = own.reindex(columns=["epochs", "train_seconds"]).mean()
        names = ("hidden_layers", "hidden", "dropout", "epochs", "patience", "batch_size", "learning_rate")
        rows.append({
            "dataset": data.name, "networks": values["label_clusters"], **{name: values[name] for name in names},
            "epochs run": own["epochs"], "train_seconds": own["train_seconds"],
            "paper's seconds": settings.published.get(METHOD, {}).get("hours", float("nan")) * 3600,
        })  # fmt: skip
    return pd.DataFrame(rows)


def metrics_table(frame: pd.DataFrame, dataset: str, settings: Settings) -> pd.DataFrame:
    """Honest rows at the fixed threshold, their F1 at a validated one, and what the paper states."""
    own = _honest(frame, dataset)
    columns = [*EXAMPLE_BASED, "validated_threshold", "validated_f1", "train_seconds"]
    table = _means(own, [column for column in columns if column in own])
    if "note" in own and own["note"].fillna("").ne("").any():
        table["note"] = own.groupby("method", sort=False)["note"].first().to_numpy()
    found = pd.concat([table, _published(settings)], ignore_index=True)
    return found.fillna({"note": ""}) if "note" in found else found


def ranking_table(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Micro and macro F1 at both thresholds, and precision at k, of the honest rows."""
    own = _honest(frame, dataset)
    columns = ["micro_f1", "macro_f1", "validated_micro_f1", "validated_macro_f1"]
    columns += [column for column in own if column.startswith("precision_at_")]
    return _means(own, [column for column in columns if column in own])


def leaky_table(frame: pd.DataFrame, dataset: str, settings: Settings) -> pd.DataFrame:
    """The method under the honest protocol and both leaky ones, and the paper's figures; empty without leaky rows."""
    own = _of(frame, dataset)
    leaky = own.loc[own["protocol"] == "leaky"]
    if leaky.empty:
        return leaky
    table = _means(pd.concat([own.loc[own["method"] == METHOD], leaky]), [*EXAMPLE_BASED, "validated_f1"])
    return pd.concat([table, _published(settings)], ignore_index=True)


def gains(frame: pd.DataFrame, opened: Opened) -> pd.DataFrame:
    """F1 of the method minus that of the best honest baseline, per data set, in points; what Figure 3 shows.

    Returns:
        Columns dataset, CVIR, against, threshold, gain; empty where the method or all baselines are missing.
    """
    rows = []
    for data, settings in opened:
        own = _honest(frame, data.name)
        honest = own.loc[own["f1"].notna()] if "f1" in own else own.iloc[:0]
        for threshold, column in (("fixed", "f1"), ("validated", "validated_f1")):
            means = honest.groupby("method")[column].mean() if len(honest) else pd.Series(dtype=float)
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
    """The finding: the method against binary relevance with the same perceptron, on every data set."""
    parts = []
    for dataset in dict.fromkeys(frame["dataset"]):
        own = _honest(frame, dataset)
        means = own.groupby("method")[["f1", "validated_f1"]].mean() if "f1" in own else pd.DataFrame()
        if METHOD in means.index and RIVAL in means.index:
            ours, theirs = means.loc[METHOD], means.loc[RIVAL]
            behind = [name for name, column in _THRESHOLDS.items() if ours[column] < theirs[column]]
            part = f"{dataset}: honest F1 {ours['f1']:.2f} % with label clusters and {theirs['f1']:.2f} % with binary "
            part += f"relevance and the same MLP ({ours['validated_f1']:.2f} and {theirs['validated_f1']:.2f} % at a "
            part += "validated threshold)"
            if behind:
                part += f", so the clusters do not reach binary relevance at the {' and the '.join(behind)} threshold"
            gated = means.loc[GATED] if GATED in means.index else ours
            if mended := [name for name in behind if gated[_THRESHOLDS[name]] >= theirs[_THRESHOLDS[name]]]:
                reached = " and ".join(f"{gated[_THRESHOLDS[name]]:.2f} % at the {name}" for name in mended)
                part += f"; with the gate they do ({reached} one)"
            parts.append(part)
        elif len(means) and means["f1"].notna().any():
            best = means["f1"].idxmax()
            parts.append(f"{dataset}: the highest honest F1 is {means['f1'].max():.2f} %, by {best}")
    return "; ".join(parts) + "." if parts else "No method was feasible."


_THRESHOLDS = {"fixed": "f1", "validated": "validated_f1"}


def _of(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return frame.loc[frame["dataset"] == dataset]


def _honest(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return frame.loc[(frame["dataset"] == dataset) & (frame["protocol"] == "honest")]


def _means(own: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean over seeds in the order of first appearance; with several seeds the sample deviations of F1 too."""
    grouped = own.groupby("method", sort=False)
    table = grouped[columns].mean()
    if own["seed"].nunique() > 1:
        for column in {"f1", "validated_f1"}.intersection(columns):
            table.insert(table.columns.get_loc(column) + 1, f"{column}_std", grouped[column].std())
    return table.reset_index()


def _published(settings: Settings) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": f"paper: {name}", **{metric: 100 * values[metric] for metric in PUBLISHED if metric in values}}
        for name, values in settings.published.items()
    )
