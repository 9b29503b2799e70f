# SPDX-License-Identifier: MIT
"""The work of experiments.verify, with its tables, verdict and ROC curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.sources.pairs import VerificationPairs
from datamodules.sources.verification_bin import VerificationBin
from experiments.comparison.data import dataset_name
from experiments.extraction.config import ExtractionConfig, build_aligner
from experiments.extraction.extract import extract
from experiments.reporting.canvas import GREY, WIDTH_INCHES, short, style
from experiments.runs.publishing import publish
from experiments.runs.run_folder import RunFolder, run_name
from lightning_modules.verification import Verification, squared_distances, verify


def verify_set(cfg: DictConfig) -> None:
    """Verifies the pairs of an EmbeddingSet, or of a file with pictures, and writes the run folder.

    Raises:
        InputError: a source without pairs.
    """
    at: dict[str, Any]
    if cfg.source is None:
        embedding_set = instantiate(cfg.data)
        pairs = VerificationPairs.read(cfg.pairs, embedding_set)
        name, rows_ND, at = dataset_name(embedding_set), embedding_set.embeddings, {"pairs": str(cfg.pairs)}
    else:
        source = instantiate(cfg.source)
        if not isinstance(source, VerificationBin):
            raise InputError("source= without pairs", "source=bin", "see --help")
        extractor, name = instantiate(cfg.extractor), source.path.stem
        keys = ["source", "extractor", "alignment", "extraction"]
        out = Path(cfg.runs_dir) / "embeddings" / run_name("verify", name, OmegaConf.masked_copy(cfg, keys))
        aligner, settings = build_aligner(cfg.alignment, source, extractor), ExtractionConfig(**cfg.extraction)
        embedding_set = extract(source, extractor, aligner, out, settings, OmegaConf.to_container(cfg.trainer))
        if embedding_set is None:
            return  # one of several processes that helped to extract
        pairs, rows_ND, at = source.pairs(), source.combine(embedding_set.embeddings), {"source": source.describe()}
    distance_P = squared_distances(rows_ND, pairs.left, pairs.right)
    result = verify(distance_P, pairs.same, pairs.fold, tuple(cfg.fars))

    row: dict[str, Any] = {"dataset": name, "extractor": str(embedding_set.meta.get("extractor", ""))}
    row |= {"pairs": len(pairs), "folds": pairs.n_folds, **result.metrics()}
    frame = pd.DataFrame([row])
    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("verify", name, cfg)), cfg) as run:
        run.note(data={"path": str(embedding_set.path), "fingerprint": embedding_set.fingerprint()}, **at)
        publish(
            run, frame, title=f"Verification: {name}", verdict=sentence(row, result),
            tables={"Over all folds": frame, "Fold by fold": folds_table(result)},
            figures={"ROC of all pairs": roc_figure({name: result})},
            shown=list(frame.columns.drop(["extractor", "folds", "threshold"])), tracking=cfg.logger,
        )  # fmt: skip


def folds_table(result: Verification) -> pd.DataFrame:
    """One row per fold: accuracy, and VAL and FAR at each FAR asked for, with their thresholds; rates in percent."""
    table = pd.DataFrame(
        {"fold": range(1, len(result.accuracy) + 1), "accuracy": 100 * result.accuracy, "threshold": result.threshold}
    )
    for one in result.val_at_far:
        at = f"at FAR {one.far_target:g}"
        table = table.assign(
            **{f"VAL {at}": 100 * one.val, f"FAR {at}": 100 * one.far, f"threshold {at}": one.threshold}
        )
    return table


def sentence(row: Mapping[str, Any], result: Verification) -> str:
    """The verdict; `row` is the row of results.csv."""
    accuracy = f"{row['accuracy']:.2f} ± {row['accuracy_std']:.2f} %"
    said = [f"Accuracy {accuracy} over {row['folds']} folds, AUC {row['auc']:.4f}"]
    for one in result.val_at_far:
        name = f"val_at_far_{one.far_target:g}"
        said.append(f"VAL {row[name]:.2f} ± {row[f'{name}_std']:.2f} % at FAR {one.far_target:g}")
    return "; ".join(said) + "."


def roc_figure(results: Mapping[str, Verification]) -> Figure:
    """VAL against FAR on a logarithmic axis, and VAL at the FARs asked for with its standard deviation over folds."""
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
        axis = figure.subplots()
        lowest, least = 100.0, 1.0
        for colour, (name, result) in enumerate(results.items()):
            far, val = _from_first_false_accept(result)
            lowest, least = min(lowest, 100 * float(val[0])), min(least, float(far[0]))
            axis.plot(far, 100 * val, color=f"C{colour}", label=short(name))
            for one in result.val_at_far:
                mean, spread = 100 * one.val.mean(), 100 * one.val.std(ddof=1)
                lowest = min(lowest, mean - spread)
                axis.errorbar(one.far_target, mean, spread, fmt="o", color=f"C{colour}", capsize=3)
        line = np.geomspace(least, 1, 200)
        axis.plot(line, 100 * (1 - line), color=GREY, linestyle=":", linewidth=1, label="equal error")
        axis.set(xscale="log", xlabel="false accept rate FAR", ylabel="validation rate VAL, %")
        axis.set_ylim(max(0.0, lowest - 0.15 * (100 - lowest) - 0.2), 100 + 0.05 * (100 - lowest) + 0.1)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.legend(loc="lower right")
    return figure


def _from_first_false_accept(result: Verification) -> tuple[np.ndarray, np.ndarray]:
    # A logarithmic axis cannot show the points before it, whose FAR is 0.
    first = int(np.flatnonzero(result.far > 0)[0])
    start = int(np.flatnonzero(result.far == result.far[first])[-1])
    return result.far[start:], result.val[start:]
