# SPDX-License-Identifier: MIT
"""Multi-label classification with clustered labels: python -m experiments.multilabel data.path=FILE"""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.coordination.command_line import command
from experiments.coordination.screen import notes, results
from experiments.label_clusters.config import MultilabelConfig, open_data


@command(config_name="multilabel", schema=MultilabelConfig)
def main(cfg: DictConfig) -> int:
    """Every method on every data set and seed; honest rows, and leaky ones labelled so. 1 where a network failed."""
    import pandas as pd

    from experiments.coordination.data import as_seeds
    from experiments.coordination.failures import failure_table
    from experiments.coordination.publishing import publish
    from experiments.coordination.run_folder import RunFolder, run_name
    from experiments.label_clusters.figures import f1_figure, gain_figure
    from experiments.label_clusters.methods import load_methods
    from experiments.label_clusters.progress import MethodProgress
    from experiments.label_clusters.results import failed_row, method_rows
    from experiments.label_clusters.tables import report_tables, sentence
    from experiments.label_clusters.task import Task
    from experiments.label_clusters.training import NetworksFailed

    opened, methods, seeds = open_data(cfg), load_methods(cfg), as_seeds(cfg.seeds)
    feature_partitioner, tracking = instantiate(cfg.feature_partitioner), OmegaConf.to_container(cfg.logger)
    launcher, trainer = instantiate(cfg.launcher), OmegaConf.to_container(cfg.trainer)
    name = "-".join(data.name for data, _ in opened)

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("multilabel", name, cfg)), cfg) as run:
        rows: list[dict[str, Any]] = []
        failed: dict[str, tuple[str, str]] = {}
        with MethodProgress(notes(), len(opened) * len(seeds) * len(methods)) as progress:
            for data, settings in opened:
                for seed in seeds:
                    how = feature_partitioner, run, trainer, tracking, progress, launcher
                    task = Task(data, settings, cfg.split, seed, *how)
                    for method_name, (node, method) in methods.items():
                        try:
                            rows += method_rows(method_name, node, method, task)
                        except NetworksFailed as error:  # it must not cost the other methods
                            rows.append(failed_row(method_name, task, error))
                            failed |= error.failed

        frame = pd.DataFrame(rows)
        publish(
            run, frame, title=f"Multi-label classification with clustered labels: {name}", verdict=sentence(frame),
            tables=report_tables(frame, opened), tracking=cfg.logger,
            figures={
                "F1 of every method": f1_figure(frame),
                "Gain against the imbalance of the labels (CVIR)": gain_figure(frame, opened),
            },
            shown=[*(["dataset"] if len(opened) > 1 else []), "method", "precision", "accuracy", "f1", "validated_f1"],
        )  # fmt: skip
    if failed:
        results().print(failure_table(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    main()
