# SPDX-License-Identifier: MIT
"""Triplet training of one embedding: python -m experiments.train_facenet data=embedding_set data.path=SET"""

from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.coordination.command_line import command
from experiments.coordination.screen import notes
from experiments.facenet.config import TrainFacenetConfig, check


@command(config_name="train_facenet", schema=TrainFacenetConfig)
def main(cfg: DictConfig) -> None:
    """The embedding before training, then one training per miner, each evaluated on the identities held out."""
    import pandas as pd

    from datamodules.identity_batches import IdentityBatches, IdentityDataModule
    from experiments.coordination.progress import Progress
    from experiments.coordination.publishing import publish
    from experiments.coordination.run_folder import RunFolder, run_name
    from experiments.facenet.evaluation import embed, evaluate, sentence
    from experiments.facenet.figures import loss_figure
    from experiments.facenet.people import open_people
    from experiments.facenet.training import build_network, load_miners, make_job, materialise, train
    from experiments.verification.figures import roc_figure
    from lightning_modules.embedding_networks import Unchanged

    check(cfg)
    miners, network = load_miners(cfg), build_network(cfg)
    people = open_people(cfg, network)
    batches = IdentityBatches(people.train.labels_N, cfg.batch.identities, cfg.batch.images, cfg.seed)
    data = IdentityDataModule(people.train, people.test, batches, cfg.batch.num_workers)
    partitioner = instantiate(cfg.partitioner)

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("train_facenet", people.name, cfg)), cfg) as run:
        before = Unchanged() if network.takes == "embeddings" else network
        found = {"before_training": evaluate(*embed(before, data.predict_dataloader()), partitioner, cfg)}
        records = {}
        with Progress(notes(), len(miners), cfg.trainer.max_epochs) as progress:
            for name, miner in miners.items():
                job, network = make_job(run, people, cfg, name, miner), build_network(cfg)
                materialise(network, data.predict_dataloader(), cfg.seed)
                progress.job_starts(job.title)
                records[name] = train(job, miner, network, data, partial(progress.epoch, job.title))
                progress.job_ends(job.title)
                found[name] = evaluate(*embed(network, data.predict_dataloader()), partitioner, cfg)

        sizes = {"dataset": people.name, "train_images": len(people.train), "test_images": len(people.test)}
        spent = {name: {"epochs": one["epochs"], "train_seconds": one["seconds"]} for name, one in records.items()}
        rows = [{"method": name, **row, **sizes, **spent.get(name, {})} for name, (row, _) in found.items()]
        frame = pd.DataFrame(rows)
        figures = {
            "ROC of held-out identities": roc_figure({name: one for name, (_, one) in found.items()}),
            "Training": loss_figure({name: one["history"] for name, one in records.items()}),
        }
        publish(
            run, frame, title=f"FaceNet on {people.name}", verdict=sentence(frame),
            tables={"Held-out identities": frame}, figures=figures, tracking=cfg.logger,
            shown=["method", "knn_accuracy", "nmi", "accuracy", "accuracy_std", "auc", "eer"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
