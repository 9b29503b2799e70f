# SPDX-License-Identifier: MIT
"""Verification: python -m experiments.verify data.path=SET pairs=FILE"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.coordination.command_line import command
from experiments.verification.config import VerifyConfig


@command(config_name="verify", schema=VerifyConfig)
def main(cfg: DictConfig) -> None:
    """Distances of the pairs, thresholds from the other folds, one row of results."""
    import pandas as pd

    from datamodules.sources.pairs import VerificationPairs
    from experiments.coordination.data import dataset_name
    from experiments.coordination.publishing import publish
    from experiments.coordination.run_folder import RunFolder, run_name
    from experiments.verification.figures import roc_figure
    from experiments.verification.tables import folds_table, results_row, sentence
    from lightning_modules.verification import squared_distances, verify

    embedding_set = instantiate(cfg.data)
    pairs = VerificationPairs.read(cfg.pairs, embedding_set)
    distance_P = squared_distances(embedding_set.embeddings, pairs.left, pairs.right)
    result = verify(distance_P, pairs.same, pairs.fold, tuple(cfg.fars))

    name = dataset_name(embedding_set)
    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("verify", name, cfg)), cfg) as run:
        run.note(data={"path": str(cfg.data.path), "fingerprint": embedding_set.fingerprint()}, pairs=str(cfg.pairs))
        frame = pd.DataFrame([results_row(embedding_set, pairs, result)])
        publish(
            run, frame, title=f"Verification: {name}", verdict=sentence(frame.iloc[0], result),
            tables={"Over all folds": frame, "Fold by fold": folds_table(result)},
            figures={"ROC of all pairs": roc_figure({name: result})},
            shown=list(frame.columns.drop(["extractor", "folds", "threshold"])),
            tracking=cfg.logger,
        )  # fmt: skip


if __name__ == "__main__":
    main()
