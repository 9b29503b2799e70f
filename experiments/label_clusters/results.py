# SPDX-License-Identifier: MIT
"""From a method to rows of results.csv: honest ones, and the leaky readings of the paper beside them.

Axes: V validation rows, T test rows, L labels.
"""

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from datamodules.files import make_folder, read_json, write_json
from experiments.label_clusters.experiment import LabelExperiment
from experiments.label_clusters.methods import NetworkMethod, Outcome
from experiments.label_clusters.networks import NetworksFailed
from lightning_modules import multilabel_metrics as metrics
from lightning_modules.baselines.multilabel_base import Infeasible, LabelScorer

Row = dict[str, Any]

# A test may do none of these; the paper may have done one of them.
READINGS = {
    "a": "predictions set to zero in clusters where the true row has no label",
    "b": "mean over clusters of scores over the rows that truly have a label in it",
    "c": "as a, and rows for which nothing is predicted left out",
}


def method_rows(
    name: str, node: DictConfig, method: NetworkMethod | LabelScorer, experiment: LabelExperiment
) -> list[Row]:
    """The honest row of a method, for `label_clusters` also one per leaky reading; read from disk if finished.

    Raises:
        NetworksFailed: some of its networks could not be trained; the others are on disk.
    """
    content = {**experiment.content(), "settings": asdict(experiment.settings)}
    content |= {"node": OmegaConf.to_container(node, resolve=True)}
    content |= {"readings": list(READINGS), "measured": ["validation_f1"]}  # earlier versions lacked them
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    file = experiment.run.path / "finished" / f"{experiment.data.name}-seed{experiment.seed}-{name}-{digest}.json"
    if file.exists():
        return read_json(file)["rows"]
    experiment.progress.begins(f"{experiment.title} {name}", f"{experiment.title} {name}")
    rows = _compute(name, method, experiment)
    make_folder(file.parent)
    write_json(file, {"rows": rows})
    experiment.progress.ends(f"{experiment.title} {name}")
    return rows


def failed_row(name: str, experiment: LabelExperiment, error: NetworksFailed) -> Row:
    """A row without numbers that states the reason."""
    experiment.progress.ends(f"{experiment.title} {name}")
    return {**_facts(name, experiment), "note": f"failed: {error}"}


def _facts(name: str, experiment: LabelExperiment) -> Row:
    return {"dataset": experiment.data.name, "seed": experiment.seed, "method": name, "protocol": "honest"}


def _compute(name: str, method: NetworkMethod | LabelScorer, experiment: LabelExperiment) -> list[Row]:
    started, facts, say = time.perf_counter(), _facts(name, experiment), experiment.progress.say
    try:
        outcome = method.run(experiment) if isinstance(method, NetworkMethod) else _score(method, experiment)
    except Infeasible as reason:
        say(f"{experiment.title} {name}: not feasible, {reason}")
        return [{**facts, "note": f"not feasible: {reason}"}]
    facts |= {"train_seconds": time.perf_counter() - started, **outcome.facts, "note": ""}
    validation_VL, test_TL = outcome.scores[experiment.split.validation], outcome.scores[experiment.split.test]
    honest = _measure(experiment, validation_VL, test_TL)
    say(
        f"{experiment.title} {name}: F1 {honest['f1']:.2f} at {honest['threshold']:g}, {honest['validated_f1']:.2f} at "
        f"the validated {honest['validated_threshold']:g}, {facts['train_seconds']:.0f} s"
    )
    rows = [{**facts, **honest}]
    if outcome.cluster_of is not None and name == "label_clusters":
        rows += _leaky(experiment, validation_VL, test_TL, outcome.cluster_of, {**facts, "protocol": "leaky"})
    return rows


def _score(method: LabelScorer, experiment: LabelExperiment) -> Outcome:
    split, labels_NL = experiment.split, experiment.data.labels
    method.fit(experiment.features[split.train], labels_NL[split.train], experiment.seed)
    scores_NL = np.zeros(labels_NL.shape, np.float32)
    for rows in (split.validation, split.test):  # scores of the training rows would cost most, and nothing uses them
        scores_NL[rows] = method.scores(experiment.features[rows])
    return Outcome(scores_NL)


def _measure(experiment: LabelExperiment, validation_VL: np.ndarray, test_TL: np.ndarray) -> Row:
    # validation_f1 is the best F1 on the validation rows. Settings may be chosen by it, never by the test rows.
    true_VL, true_TL = (experiment.data.labels[rows] for rows in (experiment.split.validation, experiment.split.test))
    fixed, chosen = experiment.settings.threshold, metrics.best_threshold(true_VL, validation_VL)
    again = metrics.example_based(true_TL, test_TL >= chosen) | metrics.label_based(true_TL, test_TL >= chosen)
    return {
        "threshold": fixed,
        **metrics.all_metrics(true_TL, test_TL, fixed),
        "validated_threshold": chosen,
        "validation_f1": metrics.example_based(true_VL, validation_VL >= chosen)["f1"],
        **{f"validated_{key}": value for key, value in again.items()},
    }


def _leaky(
    experiment: LabelExperiment, validation_VL: np.ndarray, test_TL: np.ndarray, cluster_of: np.ndarray, facts: Row
) -> list[Row]:
    true_VL, true_TL = (experiment.data.labels[rows] for rows in (experiment.split.validation, experiment.split.test))
    own_VL, own_TL = metrics.own_clusters(true_VL, cluster_of), metrics.own_clusters(true_TL, cluster_of)
    threshold, zeroed_TL = experiment.settings.threshold, test_TL * own_TL
    answered = (zeroed_TL >= threshold).any(axis=1)
    measured = {
        "a": _measure(experiment, validation_VL * own_VL, zeroed_TL),
        "b": metrics.leaky_per_cluster(true_TL, test_TL, cluster_of, threshold),
        "c": metrics.all_metrics(true_TL[answered], zeroed_TL[answered], threshold) if answered.any() else {},
    }
    common, method = {**facts, "threshold": threshold}, facts["method"]
    return [
        {**common, "method": f"{method}_leaky_{key}", **measured[key], "note": f"LEAKY: {text}"}
        for key, text in READINGS.items()
    ]
