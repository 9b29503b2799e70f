# SPDX-License-Identifier: MIT
"""A run folder with made-up numbers in the paper's regime, and readers for what the report wrote."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

# scenario: partitioner, router, decision, points above no distribution at N = 1,000, points lost for each doubling of N
SCENARIOS = {
    "no_distribution": ("", "", "argmax", 0.0, 2.4),
    "ism": ("random", "max_output", "max_output", 0.40, 0.80),
    "random_nearest": ("random", "nearest_class", "argmax", 0.42, 0.79),
    "knn": ("", "nearest_class", "", 0.38, 0.80),
    "clustered_maxmax": ("kmeans", "max_output", "max_output", 0.55, 0.76),
    "clustered_nearest": ("kmeans", "nearest_class", "argmax", 0.62, 0.74),
    "clustered_fused": ("kmeans", "nearest_class", "metric", 0.75, 0.72),
}
CLUSTER_ACCURACY = {
    ("random", "max_output"): (94.9, 92.6),
    ("random", "nearest_class"): (95.2, 92.7),
    ("random", "cluster_mean"): (23.2, 23.4),
    ("kmeans", "max_output"): (97.9, 97.2),
    ("kmeans", "nearest_class"): (98.5, 97.8),
    ("kmeans", "cluster_mean"): (86.2, 85.7),
}


def fake_results(data_sets, sizes, seeds, scenarios=tuple(SCENARIOS), loss="arcface") -> pd.DataFrame:
    """Rows of results.csv; the numbers follow the paper's tables with noise shared by the scenarios of a seed."""
    rows = []
    for d, dataset in enumerate(data_sets):
        for n in sizes:
            for seed in seeds:
                shared = np.random.default_rng([d, n, seed]).normal(0, 0.25)
                for s, scenario in enumerate(scenarios):
                    rng = np.random.default_rng([d, n, seed, s])
                    partitioner, router, decision, gain, loss_points = SCENARIOS.get(
                        scenario, ("", "", "argmax", 0.2, 0.8)
                    )
                    trained = scenario != "knn"
                    m = max(2, n // 2500) if partitioner else 1
                    recall = 93 - d + gain - loss_points * np.log2(n / 1000) + shared + rng.normal(0, 0.07)
                    # Scenarios that share a partition share its training, and so its seconds.
                    clock = np.random.default_rng([d, n, seed, len(partitioner)])
                    whole = 71.0 * (n / 10000) ** 2 * clock.normal(1, 0.02)
                    serial, parallel = (whole / m**0.85, whole / m**1.85) if partitioner else (whole, whole)
                    train, test = CLUSTER_ACCURACY.get((partitioner, router), (np.nan, np.nan))
                    rows.append(
                        {
                            "dataset": dataset,
                            "extractor": "facenet",
                            "n_identities": n,
                            "n_subnets": m if trained else None,
                            "scenario": scenario,
                            "partitioner": partitioner,
                            "loss": loss if trained else "",
                            "init": "random" if trained else "",
                            "router": router,
                            "decision": decision,
                            "seed": seed,
                            "accuracy": recall,
                            "precision": recall + 1.4,
                            "recall": recall,
                            "f1": recall - 0.3,
                            "cluster_accuracy_train": train + rng.normal(0, 0.1),
                            "cluster_accuracy_test": test + rng.normal(0, 0.1),
                            "epochs": 50 if trained else None,
                            "epoch_seconds_serial": serial if trained else None,
                            "epoch_seconds_parallel": parallel if trained else None,
                            "train_seconds": 50 * serial if trained else None,
                            "peak_memory_mb": 300 + n * 0.05 / m if trained else None,
                            "query_microseconds": 12 + n / 900 + rng.normal(0, 0.4),
                            "parameters": n * 512 if trained else None,
                            "train_samples": 12 * n,
                            "test_samples": 4 * n,
                        }
                    )
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(["n_subnets", "epochs", "parameters"], "Int64"))


def fake_details(dataset: str, n: int, seeds, m: int = 4, epochs: int = 20) -> dict[str, pd.DataFrame]:
    """All four details/*.csv for one data set and N."""
    rng = np.random.default_rng(7)
    history, clusters = [], []
    for partition, networks in (("single", 1), ("random", m), ("kmeans", m)):
        for seed in seeds:
            for cluster in range(networks):
                clock, rate = 0.0, 0.12 if networks == 1 else 0.35
                for epoch in range(epochs):
                    duration = (6.0 if networks == 1 else 0.9) * rng.normal(1, 0.05)
                    clock += duration
                    done = 1 - np.exp(-rate * (epoch + 1))
                    row = (dataset, n, partition, seed, cluster, epoch, 22 * (1 - done) + 1 + rng.normal(0, 0.1))
                    history.append((*row, 95 * done + rng.normal(0, 0.3), duration, 1e5 / duration, clock))
                if networks > 1:
                    uneven = int(n / m * (1 if partition == "random" else rng.uniform(0.6, 1.4)))
                    close = 0.12 if partition == "random" else rng.uniform(0.25, 0.4)
                    row = (dataset, n, partition, seed, cluster, uneven, close, rng.uniform(0.02, 0.1))
                    clusters.append((*row, 92 - 6 * rng.random()))
    identities = [
        (f"identity_{i:04d}", scenario, float(rng.choice([0, 20, 40])), 5)
        for i in range(30)
        for scenario in ("ism", "clustered_nearest")
    ]
    routing = [
        (dataset, n, m, partitioner, router, seed, *(np.array(accuracy) + rng.normal(0, 0.1, 2)))
        for (partitioner, router), accuracy in CLUSTER_ACCURACY.items()
        for seed in seeds
    ]
    head = ["dataset", "n_identities"]
    times = ["epoch_seconds", "samples_per_second", "seconds_since_start"]
    columns = {
        "history": [*head, "scenario_partition", "seed", "cluster", "epoch", "train_loss", "val_accuracy", *times],
        "clusters": [
            *head,
            "partitioner",
            "seed",
            "cluster",
            "size",
            "within_similarity",
            "between_similarity",
            "test_recall",
        ],
        "identities": ["identity", "scenario", "recall", "test_samples"],
        "routing": [
            *head,
            "n_subnets",
            "partitioner",
            "router",
            "seed",
            "cluster_accuracy_train",
            "cluster_accuracy_test",
        ],
    }
    content = {"history": history, "clusters": clusters, "identities": identities, "routing": routing}
    return {name: pd.DataFrame(rows, columns=columns[name]) for name, rows in content.items()}


def write_run(folder: Path, results: pd.DataFrame, details=None, manifest=None) -> Path:
    """A run folder as a comparison leaves it."""
    folder.mkdir(parents=True)
    results.to_csv(folder / "results.csv", index=False)
    (folder / "config.yaml").write_text("data:\n  name: made_up\nseeds: 3\ntrainer:\n  max_epochs: 50\n")
    default = {"git_commit": "0123456789abcdef0123456789abcdef01234567", "versions": {"torch": "2.15.0"}}
    (folder / "manifest.json").write_text(json.dumps(manifest or default))
    for name, frame in (details or {}).items():
        (folder / "details").mkdir(exist_ok=True)
        frame.to_csv(folder / "details" / f"{name}.csv", index=False)
    return folder


class Page(HTMLParser):
    """What a browser would find in a page: tags with attributes, text, tables as lists of texts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._caption, self._rows, self._cell = "", [], None
        self.feed(text)
        self.close()

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"
        if tag == "table":
            self.tables[self._caption.strip()] = self._rows

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif any(tag in ("td", "th") for tag in self.open):
            self._rows[-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]
