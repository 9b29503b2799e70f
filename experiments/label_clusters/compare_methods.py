# SPDX-License-Identifier: MIT
"""The work of experiments.multilabel: every method on every data set and seed."""

from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.command_line.terminal import notes, results
from experiments.comparison.data import as_seeds
from experiments.comparison.failures import failure_table
from experiments.label_clusters.config import open_data
from experiments.label_clusters.experiment import LabelExperiment, MethodProgress
from experiments.label_clusters.figures import f1_figure, gain_figure
from experiments.label_clusters.methods import load_methods
from experiments.label_clusters.networks import NetworksFailed
from experiments.label_clusters.results import failed_row, method_rows
from experiments.label_clusters.tables import report_tables, sentence
from experiments.runs.publishing import publish
from experiments.runs.run_folder import RunFolder, run_name


def compare_methods(cfg: DictConfig) -> int:
    """Runs the comparison and writes the run folder; returns 1 if a network failed."""
    opened, methods, seeds = open_data(cfg), load_methods(cfg), as_seeds(cfg.seeds)
    feature_partitioner, tracking = instantiate(cfg.feature_partitioner), OmegaConf.to_container(cfg.logger)
    launcher, trainer = instantiate(cfg.launcher), OmegaConf.to_container(cfg.trainer)
    name = "-".join(data.name for data, _ in opened)

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("multilabel", name, cfg)), cfg) as run:
        rows: list[dict[str, Any]] = []
        failed: dict[str, tuple[str, str]] = {}
        titles = [f"{data.name} seed {seed} {method}" for data, _ in opened for seed in seeds for method in methods]
        with MethodProgress(notes(), titles) as progress:
            for data, settings in opened:
                for seed in seeds:
                    how = feature_partitioner, run, trainer, tracking, progress, launcher
                    experiment = LabelExperiment(data, settings, cfg.split, seed, *how)
                    for method_name, (node, method) in methods.items():
                        try:
                            rows += method_rows(method_name, node, method, experiment)
                        except NetworksFailed as error:  # the other methods go on
                            rows.append(failed_row(method_name, experiment, error))
                            failed |= error.failed

        frame = pd.DataFrame(rows)
        with progress.stage("tables, figures and report"):
            publish(
                run, frame, title=f"Multi-label classification with clustered labels: {name}", verdict=sentence(frame),
                tables=report_tables(frame, opened), tracking=cfg.logger,
                figures={
                    "F1 of every method": f1_figure(frame),
                    "Gain against the imbalance of the labels (CVIR)": gain_figure(frame, opened),
                },
                shown=[
                    *(["dataset"] if len(opened) > 1 else []), "method", "precision", "accuracy", "f1", "validated_f1",
                ],
            )  # fmt: skip
    if failed:
        results().print(failure_table(failed))
    return 1 if failed else 0
