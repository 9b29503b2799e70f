# SPDX-License-Identifier: MIT
"""The work of experiments.train_facenet: one training per miner, all measured on the same held-out identities.

Axes: N samples, D dimensions.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from omegaconf import DictConfig
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix
from torch import nn
from torch.utils.data import DataLoader

from datamodules.errors import InputError
from datamodules.identity_batches import IdentityBatches, IdentityDataModule
from datamodules.partitioners.base import Partitioner
from datamodules.sources.pairs import VerificationPairs
from experiments.command_line.terminal import notes
from experiments.facenet.data import open_data
from experiments.facenet.training import build_network, load_miners, make_job, shape_lazy_layers, train_with_miner
from experiments.reporting.canvas import panels, style
from experiments.runs.publishing import publish
from experiments.runs.run_folder import RunFolder, run_name
from experiments.training.progress import Progress
from experiments.verification.verify import roc_figure
from lightning_modules.embedding_networks import Unchanged
from lightning_modules.neighbours import leave_one_out_accuracy
from lightning_modules.verification import Verification, squared_distances, verify


def compare_miners(cfg: DictConfig) -> None:
    """Measures the embedding before training, then trains and measures with each miner; writes the run folder.

    Refuses batches without triplets, an unknown miner, and unusable data.
    """
    for key in ("identities", "images"):
        if cfg.batch[key] < 2:
            raise InputError(f"batch.{key} = {cfg.batch[key]}", "at least 2", f"raise batch.{key}")
    miners, network = load_miners(cfg), build_network(cfg)
    samples = open_data(cfg, network)
    batches = IdentityBatches(samples.train.labels_N, cfg.batch.identities, cfg.batch.images, cfg.seed)
    data = IdentityDataModule(samples.train, samples.test, batches, cfg.batch.num_workers)
    partitioner = instantiate(cfg.partitioner)

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("train_facenet", samples.name, cfg)), cfg) as run:
        before = Unchanged() if network.takes == "embeddings" else network
        measured = {"before_training": measure_embedding(*embed(before, data.predict_dataloader()), partitioner, cfg)}
        records = {}
        jobs = {name: make_job(run, samples, cfg, name, miner) for name, miner in miners.items()}
        with Progress(notes(), {job.identifier: 1.0 for job in jobs.values()}, noun="network") as progress:
            for name, miner in miners.items():
                job, network = jobs[name], build_network(cfg)
                shape_lazy_layers(network, data.predict_dataloader(), cfg.seed)
                progress.job_starts(job)
                records[name] = train_with_miner(job, miner, network, data, partial(progress.epoch, job))
                progress.job_ends(job, None)
                with progress.stage(f"evaluation of {name}"):
                    measured[name] = measure_embedding(*embed(network, data.predict_dataloader()), partitioner, cfg)

        sizes = {"dataset": samples.name, "train_images": len(samples.train), "test_images": len(samples.test)}
        spent = {name: {"epochs": one["epochs"], "train_seconds": one["seconds"]} for name, one in records.items()}
        rows = [{"method": name, **row, **sizes, **spent.get(name, {})} for name, (row, _) in measured.items()]
        frame = pd.DataFrame(rows)
        publish(
            run, frame, title=f"FaceNet on {samples.name}", verdict=sentence(frame),
            tables={"Held-out identities": frame}, tracking=cfg.logger,
            figures={
                "ROC of held-out identities": roc_figure({name: one for name, (_, one) in measured.items()}),
                "Training": loss_figure({name: one["history"] for name, one in records.items()}),
            },
            shown=["method", "knn_accuracy", "nmi", "accuracy", "accuracy_std", "auc", "eer"],
        )  # fmt: skip


def sentence(frame: pd.DataFrame) -> str:
    """The verdict."""
    first, best = frame.iloc[0], frame.loc[frame["accuracy"].iloc[1:].idxmax()]
    return (
        f"Verification accuracy of held-out identities {first['accuracy']:.2f} ± {first['accuracy_std']:.2f} % for "
        f"{first['method'].replace('_', ' ')}, {best['accuracy']:.2f} ± {best['accuracy_std']:.2f} % with "
        f"{best['method'].replace('_', ' ')}, the best of {len(frame) - 1} trained; recognition by neighbours "
        f"{first['knn_accuracy']:.2f} % and {best['knn_accuracy']:.2f} %."
    )


@style()
def loss_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Mean loss and number of mined triplets by epoch."""
    figure, (loss, triplets) = panels([2.3, 2.3], sharex=True)
    for axis, key, label in ((loss, "train/loss", "loss"), (triplets, "train/triplets", "triplets per batch")):
        for name, records in histories.items():
            axis.plot([r["epoch"] + 1 for r in records], [r[key] for r in records], marker=".", label=name)
        axis.set_ylabel(label)
    triplets.set(yscale="symlog", xlabel="epoch")
    triplets.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=len(histories))
    return figure


@torch.no_grad()
def embed(network: nn.Module, loader: DataLoader) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of all samples: (N, D) float32 of unit length, and (N,) labels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    batches = [(network(samples.to(device)).float().cpu(), labels) for samples, labels in loader]
    return torch.cat([z for z, _ in batches]).numpy(), torch.cat([labels for _, labels in batches]).numpy()


def measure_embedding(
    z_ND: np.ndarray, labels_N: np.ndarray, partitioner: Partitioner, cfg: DictConfig
) -> tuple[dict[str, float], Verification]:
    """Columns of results.csv, and the verification of drawn pairs; the rows of `z_ND` have unit length.

    nmi, adjusted_rand and pair_f1 compare clusters with identities; accuracies, rates and pair_f1 are in percent.
    Refuses too few images for the pairs, the neighbours or the FARs asked for.
    """
    _, labels_N = np.unique(labels_N, return_inverse=True)
    wanted = cfg.evaluation
    pairs = VerificationPairs.draw(labels_N, wanted.folds, wanted.pairs, cfg.seed)
    distance_P = squared_distances(z_ND, pairs.left, pairs.right)
    verification = verify(distance_P, pairs.same, pairs.fold, tuple(wanted.fars))
    clusters_N = partitioner.fit(z_ND, int(labels_N.max()) + 1, cfg.seed).cluster_of
    return {
        "knn_accuracy": 100 * leave_one_out_accuracy(z_ND, labels_N, wanted.knn),
        "nmi": normalized_mutual_info_score(labels_N, clusters_N),
        "adjusted_rand": adjusted_rand_score(labels_N, clusters_N),
        "pair_f1": 100 * pair_f1(labels_N, clusters_N),
        **verification.metrics(),
    }, verification


def pair_f1(labels_N: np.ndarray, clusters_N: np.ndarray) -> float:
    """F1 in [0, 1] over pairs of samples: a pair in one cluster should be a pair of one identity."""
    (_, false_pairs), (missed, right) = pair_confusion_matrix(labels_N, clusters_N)
    return float(2 * right / max(2 * right + false_pairs + missed, 1))
