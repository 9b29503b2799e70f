# SPDX-License-Identifier: MIT
"""Verification: python -m experiments.verify data.path=SET pairs=FILE"""

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.sources.pairs import VerificationPairs
from experiments.coordination.command_line import command
from experiments.coordination.whole_run import finished, run_folder, show, whole_run
from experiments.verification.config import VerifyConfig
from experiments.verification.figures import roc_figure
from experiments.verification.tables import folds_table, results_row, sentence
from lightning_modules.verification import squared_distances, verify


@command(config_name="verify", schema=VerifyConfig)
def main(cfg: DictConfig) -> None:
    """Distances of the pairs, thresholds from the other folds, one row of results."""
    folder = run_folder(cfg, "verify")
    if not finished(folder, cfg):
        embedding_set = instantiate(cfg.data)
        pairs = VerificationPairs.read(cfg.pairs, embedding_set)
        distance_P = squared_distances(embedding_set.embeddings, pairs.left, pairs.right)
        result = verify(distance_P, pairs.same, pairs.fold, tuple(cfg.fars))
        with whole_run(folder, cfg, "verify") as run:
            row = results_row(embedding_set, pairs, result)
            run.finish(
                pd.DataFrame([row]),
                title=f"Verification: {row['dataset']}",
                verdict=sentence(row, result),
                tables={"Over all folds": pd.DataFrame([row]), "Fold by fold": folds_table(result)},
                figures={"ROC of all pairs": roc_figure({row["dataset"]: result})},
                data={"path": str(cfg.data.path), "fingerprint": embedding_set.fingerprint(), "pairs": str(cfg.pairs)},
            )
    show(folder, ["dataset", "pairs", "accuracy", "accuracy_std", "auc", "eer", *(f"val_at_far_{far:g}" for far in cfg.fars)])


if __name__ == "__main__":
    main()
