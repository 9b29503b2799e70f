# SPDX-License-Identifier: MIT
"""Clustering of image features under different losses: python -m experiments.cluster_images source.root=FOLDER"""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.coordination.command_line import command
from experiments.coordination.whole_run import finished, run_folder, show, whole_run
from experiments.image_clustering.clusters import agreement
from experiments.image_clustering.config import ClusterImagesConfig
from experiments.image_clustering.feature_maps import convolutions, feature_maps
from experiments.image_clustering.figures import feature_maps_figure, representatives_figure
from experiments.image_clustering.fits import clusters_table, fit_losses, representatives_table, results, sentence
from experiments.image_clustering.pictures import read_pictures


@command(config_name="cluster_images", schema=ClusterImagesConfig)
def main(cfg: DictConfig) -> None:
    """Features, one clustering per loss, what they agree on, representatives and feature maps."""
    folder = run_folder(cfg, "cluster_images")
    if not finished(folder, cfg):
        source, extractor = instantiate(cfg.source), instantiate(cfg.extractor).to(cfg.device)
        pictures = read_pictures(source, extractor)
        lengths = {key: cfg[key] for key in ("delta", "sigma", "epsilon", "scale")}
        search = {"n_init": cfg.n_init, "max_iter": cfg.max_iter, "random_state": cfg.seed}
        fits = fit_losses(pictures.features_ND, cfg.k or len(pictures.classes), list(cfg.losses), **lengths, **search)

        frame = results(fits, pictures, dataset=source.describe(), extractor=extractor.fingerprint(), seed=cfg.seed)
        clusters = clusters_table(fits, pictures)
        truth_N = pictures.labels_N if len(pictures.classes) > 1 else None
        between = agreement({loss: fit.labels_N for loss, fit in fits.items()}, truth_N)

        layers = list(cfg.layers) if cfg.layers is not None else convolutions(extractor)
        shown = next(iter(fits.values())).representative_M
        maps = feature_maps(extractor, torch.from_numpy(pictures.crops_NSSC[shown]).to(cfg.device), layers)

        with whole_run(folder, cfg, "cluster_images") as run:
            clusters.to_csv(run.folder / "clusters.csv", index=False)
            run.finish(
                frame,
                title=f"Clusters of {source.describe()}",
                verdict=sentence(frame),
                tables={
                    "Each loss": frame.drop(columns=["dataset", "extractor", "seed"]),
                    "Agreement": between,
                    "Representatives": representatives_table(fits, pictures),
                },
                figures={
                    "Representative photographs": representatives_figure(fits, pictures),
                    "Feature maps": feature_maps_figure(pictures.crops_NSSC[shown], maps),
                },
                data={"source": source.describe(), "extractor": extractor.fingerprint(), "rejected": len(pictures.rejected)},
            )
    show(folder, ["loss", "nmi", "adjusted_rand", "purity", "objective", "n_iter", "fit_seconds"])


if __name__ == "__main__":
    main()
