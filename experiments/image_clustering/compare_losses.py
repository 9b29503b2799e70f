# SPDX-License-Identifier: MIT
"""The work of experiments.cluster_images: one clustering per loss, their tables and verdict. Axes: N images."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.files import write_text
from datamodules.images import decode
from experiments.extraction.config import ExtractionConfig, build_aligner
from experiments.extraction.extract import extract
from experiments.image_clustering.feature_maps import chosen_layers, feature_maps
from experiments.image_clustering.figures import feature_maps_figure, representatives_figure
from experiments.image_clustering.fits import Fit, estimators_of, fit_losses
from experiments.runs.publishing import publish
from experiments.runs.run_folder import RunFolder, run_name


def compare_losses(cfg: DictConfig) -> None:
    """Extracts features, clusters them under each loss, and writes tables, representatives and feature maps.

    Refuses a number of clusters, layers, losses or lengths out of range.
    """
    source, extractor = instantiate(cfg.source), instantiate(cfg.extractor)
    aligner, estimators = build_aligner(cfg.alignment, source, extractor), estimators_of(cfg)
    layers, count = chosen_layers(extractor, cfg.layers), len(source.listing())
    if cfg.k is not None and not 1 <= cfg.k <= count:  # before the extraction, which may take hours
        raise InputError(f"k = {cfg.k} for {count} photographs", f"1 to {count}, or null for the sub-folders", "set k")
    name = source.root.resolve().name

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("cluster_images", name, cfg)), cfg) as run:
        settings, trainer = ExtractionConfig(**cfg.extraction), OmegaConf.to_container(cfg.trainer)
        pictures = extract(source, extractor, aligner, run.path / "features", settings, trainer)
        if pictures is None:
            return  # one of several processes that helped to extract
        fits = fit_losses(pictures.embeddings, cfg.k or pictures.n_identities, estimators)

        shown = {row for fit in fits.values() for row in fit.representative_M.tolist()}
        crops = {
            row: aligner.main_face(decode(source.read(pictures.files[row])).pixels_HWC).crop_SSC for row in shown
        }  # as the network saw them
        first = [crops[row] for row in next(iter(fits.values())).representative_M.tolist()]
        maps = feature_maps(extractor.cpu(), torch.from_numpy(np.stack(first)), layers)

        frame = results(fits, pictures, dataset=name, extractor=extractor.fingerprint(), seed=cfg.seed)
        write_text(run.path / "clusters.csv", clusters(fits, pictures).to_csv(index=False))
        publish(
            run, frame, title=f"Clusters of the photographs in {name}", verdict=sentence(frame),
            tables={
                "Each loss": frame.drop(columns=["dataset", "extractor", "seed"]),
                "Agreement": agreement(fits, pictures),
                "Representatives": representatives_table(fits, pictures),
            },
            figures={
                "Representative photographs": representatives_figure(fits, pictures, crops),
                "Feature maps": feature_maps_figure(first, maps),
            },
            shown=["loss", "nmi", "adjusted_rand", "purity", "objective", "fit_seconds"], tracking=cfg.logger,
        )  # fmt: skip


def results(fits: Mapping[str, Fit], pictures: EmbeddingSet, **common: Any) -> pd.DataFrame:
    """The rows of results.csv, one per loss; `common` are the first columns, the same in every row."""
    rows = []
    for loss, fit in fits.items():
        sizes = fit.sizes()
        rows.append({
            **common, "images": len(pictures), "clusters": len(sizes), "loss": loss, **against_classes(fit, pictures),
            "objective": fit.objective, "n_iter": fit.n_iter, "smallest_cluster": int(sizes.min()),
            "largest_cluster": int(sizes.max()), "fit_seconds": fit.seconds,
        })  # fmt: skip
    return pd.DataFrame(rows)


def against_classes(fit: Fit, pictures: EmbeddingSet) -> dict[str, float]:
    """Normalised mutual information, adjusted Rand index and purity, all at most 1; NaN for a single class."""
    if pictures.n_identities == 1:
        return dict.fromkeys(("nmi", "adjusted_rand", "purity"), np.nan)
    shared = confusion_matrix(pictures.labels, fit.labels_N)
    return {
        "nmi": normalized_mutual_info_score(pictures.labels, fit.labels_N),
        "adjusted_rand": adjusted_rand_score(pictures.labels, fit.labels_N),
        "purity": float(shared.max(axis=0).sum() / len(pictures)),
    }


def agreement(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """Agreement of any two losses, and of each with the classes if there are several: 1 same, 0 independent."""
    named = {loss: fit.labels_N for loss, fit in fits.items()}
    named |= {"classes": pictures.labels} if pictures.n_identities > 1 else {}
    pairs = [(one, two, named[one], named[two]) for one, two in combinations(named, 2)]
    rows = [(one, two, adjusted_rand_score(a, b), normalized_mutual_info_score(a, b)) for one, two, a, b in pairs]
    return pd.DataFrame(rows, columns=["first", "second", "adjusted_rand", "nmi"])


def clusters(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """A row per picture: its name, its class, its cluster under each loss from 1."""
    table = pd.DataFrame({"image": pictures.files, "class": np.array(pictures.identities)[pictures.labels]})
    return table.assign(**{loss: fit.labels_N + 1 for loss, fit in fits.items()})


def representatives_table(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """A row per loss and cluster: its size and its representative."""
    return pd.DataFrame(
        {"loss": loss, "cluster": cluster + 1, "pictures": size, "representative": pictures.files[row]}
        for loss, fit in fits.items()
        for cluster, (row, size) in enumerate(zip(fit.representative_M, fit.sizes().tolist(), strict=True))
    )


def sentence(frame: pd.DataFrame) -> str:
    """The verdict; `frame` is that of `results`."""
    count = f"{frame['images'].iloc[0]} photographs in {frame['clusters'].iloc[0]} clusters under {len(frame)} losses"
    if frame["nmi"].isna().all():
        return f"{count}; there is one class only, so the clusters are compared with each other alone."
    best = frame.loc[frame["nmi"].idxmax()]
    values = ", ".join(f"{row['loss']} {row['nmi']:.3f}" for _, row in frame.iterrows())
    return f"{count}; NMI with the classes is highest for {best['loss']} ({values})."
