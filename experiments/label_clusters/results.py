# SPDX-License-Identifier: MIT
"""From a method and a task to rows of results.csv: honest ones, and the leaky readings of the paper beside them.

Axes: V validation rows, T test rows, L labels.
"""

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from datamodules.files import read_json, write_json
from experiments.label_clusters.methods import NetworkMethod, Outcome
from experiments.label_clusters.task import Task
from experiments.label_clusters.training import NetworksFailed
from lightning_modules.baselines.multilabel_base import Infeasible, LabelScorer
from lightning_modules.multilabel_metrics import (
    all_metrics,
    best_threshold,
    example_based,
    label_based,
    leaky_per_cluster,
    own_clusters,
)

Row = dict[str, Any]

# What a test may not do, and the paper may have done.
READINGS = {
    "a": "predictions set to zero in clusters where the true row has no label",
    "b": "mean over clusters of scores over the rows that truly have a label in it",
    "c": "as a, and rows for which nothing is predicted left out",
}


def method_rows(name: str, node: DictConfig, method: NetworkMethod | LabelScorer, task: Task) -> list[Row]:
    """The honest row of a method, and for `label_clusters` one per leaky reading; computed or, where on disk, read.

    Raises:
        NetworksFailed: networks of it could not be trained; what is trained is kept.
    """
    content = {**task.content(), "settings": asdict(task.settings), "node": OmegaConf.to_container(node, resolve=True)}
    content["readings"], content["measured"] = list(READINGS), ["validation_f1"]  # earlier versions lacked it
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    file = task.run.path / "finished" / f"{task.data.name}-seed{task.seed}-{name}-{digest}.json"
    if file.exists():
        return read_json(file)["rows"]
    task.progress.method_starts(f"{task.title} {name}")
    rows = _compute(name, method, task)
    file.parent.mkdir(exist_ok=True)
    write_json(file, {"rows": rows})
    task.progress.method_ends(f"{task.title} {name}")
    return rows


def failed_row(name: str, task: Task, error: NetworksFailed) -> Row:
    """A row without numbers that says why."""
    task.progress.method_ends(f"{task.title} {name}")
    return {**_facts(name, task), "note": f"failed: {error}"}


def _facts(name: str, task: Task) -> Row:
    return {"dataset": task.data.name, "seed": task.seed, "method": name, "protocol": "honest"}


def _compute(name: str, method: NetworkMethod | LabelScorer, task: Task) -> list[Row]:
    started, facts = time.perf_counter(), _facts(name, task)
    try:
        outcome = method.run(task) if isinstance(method, NetworkMethod) else _score(method, task)
    except Infeasible as reason:
        task.progress.say(f"{task.title} {name}: not feasible, {reason}")
        return [{**facts, "note": f"not feasible: {reason}"}]
    facts |= {"train_seconds": time.perf_counter() - started, **outcome.facts, "note": ""}
    validation_VL, test_TL = outcome.scores[task.split.validation], outcome.scores[task.split.test]
    honest = _measure(task, validation_VL, test_TL)
    task.progress.say(
        f"{task.title} {name}: F1 {honest['f1']:.2f} at {honest['threshold']:g}, {honest['validated_f1']:.2f} at the "
        f"validated {honest['validated_threshold']:g}, {facts['train_seconds']:.0f} s"
    )
    rows = [{**facts, **honest}]
    if outcome.cluster_of is not None and name == "label_clusters":
        rows += _leaky(task, validation_VL, test_TL, outcome.cluster_of, {**facts, "protocol": "leaky"})
    return rows


def _score(method: LabelScorer, task: Task) -> Outcome:
    method.fit(task.features[task.split.train], task.data.labels[task.split.train], task.seed)
    # Training rows are not asked about: they cost most, and nobody looks at them.
    scores_NL = np.zeros(task.data.labels.shape, np.float32)
    for rows in (task.split.validation, task.split.test):
        scores_NL[rows] = method.scores(task.features[rows])
    return Outcome(scores_NL)


def _measure(task: Task, validation_VL: np.ndarray, test_TL: np.ndarray) -> Row:
    """All metrics at the fixed threshold, and at that with the best F1 on the validation rows.

    validation_f1 is what this best F1 is: settings may be chosen by it, never by what the test rows say.
    """
    true_VL, true_TL = (task.data.labels[rows] for rows in (task.split.validation, task.split.test))
    fixed, chosen = task.settings.threshold, best_threshold(true_VL, validation_VL)
    again = example_based(true_TL, test_TL >= chosen) | label_based(true_TL, test_TL >= chosen)
    return {
        "threshold": fixed,
        **all_metrics(true_TL, test_TL, fixed),
        "validated_threshold": chosen,
        "validation_f1": example_based(true_VL, validation_VL >= chosen)["f1"],
        **{f"validated_{key}": value for key, value in again.items()},
    }


def _leaky(task: Task, validation_VL: np.ndarray, test_TL: np.ndarray, cluster_of: np.ndarray, facts: Row) -> list[Row]:
    true_VL, true_TL = (task.data.labels[rows] for rows in (task.split.validation, task.split.test))
    own_VL, own_TL = own_clusters(true_VL, cluster_of), own_clusters(true_TL, cluster_of)
    threshold, zeroed_TL = task.settings.threshold, test_TL * own_TL
    answered = (zeroed_TL >= threshold).any(axis=1)
    measured = {
        "a": _measure(task, validation_VL * own_VL, zeroed_TL),
        "b": leaky_per_cluster(true_TL, test_TL, cluster_of, threshold),
        "c": all_metrics(true_TL[answered], zeroed_TL[answered], threshold) if answered.any() else {},
    }
    common, method = {**facts, "threshold": threshold}, facts["method"]
    return [
        {**common, "method": f"{method}_leaky_{key}", **measured[key], "note": f"LEAKY: {text}"}
        for key, text in READINGS.items()
    ]
