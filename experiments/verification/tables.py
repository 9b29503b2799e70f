# SPDX-License-Identifier: MIT
"""What a verification says in tables and in one sentence."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from datamodules.embedding_set import EmbeddingSet
from datamodules.sources.pairs import VerificationPairs
from experiments.coordination.data import dataset_name
from lightning_modules.verification import Verification


def results_row(embedding_set: EmbeddingSet, pairs: VerificationPairs, result: Verification) -> dict[str, Any]:
    """The row of results.csv."""
    return {
        "dataset": dataset_name(embedding_set),
        "extractor": str(embedding_set.meta.get("extractor", "")),
        "pairs": len(pairs),
        "folds": pairs.n_folds,
        **result.metrics(),
    }


def folds_table(result: Verification) -> pd.DataFrame:
    """One row per fold: accuracy, and VAL and FAR at each FAR asked for, with their thresholds; rates in percent."""
    table = pd.DataFrame(
        {"fold": range(1, len(result.accuracy) + 1), "accuracy": 100 * result.accuracy, "threshold": result.threshold}
    )
    for one in result.val_at_far:
        at = f"at FAR {one.far_target:g}"
        table[f"VAL {at}"] = 100 * one.val
        table[f"FAR {at}"] = 100 * one.far
        table[f"threshold {at}"] = one.threshold
    return table


def sentence(row: Mapping[str, Any], result: Verification) -> str:
    """The finding; `row` is that of `results_row`."""
    accuracy = f"{row['accuracy']:.2f} ± {row['accuracy_std']:.2f} %"
    said = [f"Accuracy {accuracy} over {row['folds']} folds, AUC {row['auc']:.4f}"]
    for one in result.val_at_far:
        name = f"val_at_far_{one.far_target:g}"
        said.append(f"VAL {row[name]:.2f} ± {row[f'{name}_std']:.2f} % at FAR {one.far_target:g}")
    return "; ".join(said) + "."
