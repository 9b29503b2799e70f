# SPDX-License-Identifier: MIT
"""Clustering of image features under different losses: python -m experiments.cluster_images source.root=FOLDER"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.files import write_text
from experiments.coordination.command_line import command
from experiments.extraction.config import build_aligner
from experiments.image_clustering.config import ClusterImagesConfig


@command(config_name="cluster_images", schema=ClusterImagesConfig)
def main(cfg: DictConfig) -> None:
    """Features, one clustering per loss, what they agree on, representatives and feature maps."""
    import numpy as np
    import torch

    from experiments.coordination.publishing import publish
    from experiments.coordination.run_folder import RunFolder, run_name
    from experiments.extraction.extract import ExtractionSettings, extract
    from experiments.image_clustering import tables
    from experiments.image_clustering.clusters import agreement, crops_of
    from experiments.image_clustering.feature_maps import chosen_layers, feature_maps
    from experiments.image_clustering.figures import feature_maps_figure, representatives_figure
    from experiments.image_clustering.fits import check_clusters, estimators_of, fit_losses

    source, extractor = instantiate(cfg.source), instantiate(cfg.extractor)
    aligner, estimators = build_aligner(cfg.alignment, source, extractor), estimators_of(cfg)
    layers = chosen_layers(extractor, cfg.layers)
    check_clusters(cfg.k, source)
    name = source.root.resolve().name

    with RunFolder(Path(cfg.runs_dir) / (cfg.name or run_name("cluster_images", name, cfg)), cfg) as run:
        settings, trainer = ExtractionSettings(**cfg.extraction), OmegaConf.to_container(cfg.trainer)
        pictures = extract(source, extractor, aligner, run.path / "features", settings, trainer)
        if pictures is None:
            return  # one of several processes that helped to extract
        fits = fit_losses(pictures.embeddings, cfg.k or pictures.n_identities, estimators)

        first = next(iter(fits.values())).representative_M
        crops = crops_of(
            {row for fit in fits.values() for row in fit.representative_M.tolist()}, pictures, source, aligner
        )
        maps = feature_maps(extractor.cpu(), torch.from_numpy(np.stack([crops[row] for row in first])), layers)

        frame = tables.results(fits, pictures, dataset=name, extractor=extractor.fingerprint(), seed=cfg.seed)
        write_text(run.path / "clusters.csv", tables.clusters(fits, pictures).to_csv(index=False))
        publish(
            run, frame, title=f"Clusters of the photographs in {name}", verdict=tables.sentence(frame),
            tables={
                "Each loss": frame.drop(columns=["dataset", "extractor", "seed"]),
                "Agreement": agreement(fits, pictures),
                "Representatives": tables.representatives(fits, pictures),
            },
            figures={
                "Representative photographs": representatives_figure(fits, pictures, crops),
                "Feature maps": feature_maps_figure([crops[row] for row in first], maps),
            },
            shown=["loss", "nmi", "adjusted_rand", "purity", "objective", "fit_seconds"], tracking=cfg.logger,
        )  # fmt: skip


if __name__ == "__main__":
    main()
