# SPDX-License-Identifier: MIT
"""One clustering per loss, its row of results.csv, and what the report says of them.

Axes: N images, D features, M clusters.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from datamodules.partitioners.generalised_kmeans import GeneralisedKMeans
from experiments.image_clustering.clusters import in_common_order, purity, representatives
from experiments.image_clustering.pictures import Pictures


@dataclass(frozen=True)
class Fit:
    """A clustering under one loss.

    Attributes:
        labels_N: (N,) clusters in [0, M), numbered as those of the first loss that they share most pictures with.
        representative_M: (M,) row of the member nearest its centre, of each cluster.
        objective: the summed loss.
        n_iter: assignments until it stood still.
        seconds: wall clock of all seedings.
    """

    labels_N: np.ndarray
    representative_M: np.ndarray
    objective: float
    n_iter: int
    seconds: float

    def sizes(self) -> np.ndarray:
        """Pictures per cluster: (M,)."""
        return np.bincount(self.labels_N, minlength=len(self.representative_M))


def fit_losses(features_ND: np.ndarray, k: int, losses: list[str], **options: Any) -> dict[str, Fit]:
    """Clusters the same features under each loss.

    Args:
        features_ND: the features.
        k: number of clusters M.
        losses: names of losses.
        **options: of `GeneralisedKMeans`.

    Returns:
        From the name of a loss to its clustering, in the order asked for.
    """
    fits: dict[str, Fit] = {}
    for loss in losses:
        start = time.perf_counter()
        fitted = GeneralisedKMeans(k, loss=loss, **options).fit(features_ND)
        seconds = time.perf_counter() - start
        first = next(iter(fits.values())).labels_N if fits else fitted.labels_
        order_M = in_common_order(fitted.labels_, first)
        place_M = np.empty_like(order_M)
        place_M[order_M] = np.arange(k)
        chosen_M = representatives(fitted, features_ND)[order_M]
        fits[loss] = Fit(place_M[fitted.labels_].astype(np.int32), chosen_M, fitted.inertia_, fitted.n_iter_, seconds)
    return fits


def results(fits: Mapping[str, Fit], pictures: Pictures, **common: Any) -> pd.DataFrame:
    """The rows of results.csv.

    Args:
        fits: of `fit_losses`.
        pictures: what was clustered.
        **common: further columns, the same in every row; they come first.

    Returns:
        A row per loss; nmi, adjusted_rand and purity against the classes are empty where there is one class only.
    """
    truth_N = pictures.labels_N if len(pictures.classes) > 1 else None
    rows = []
    for loss, fit in fits.items():
        sizes = fit.sizes()
        rows.append(
            {
                **common,
                "images": len(pictures.names),
                "clusters": len(sizes),
                "loss": loss,
                "nmi": np.nan if truth_N is None else normalized_mutual_info_score(truth_N, fit.labels_N),
                "adjusted_rand": np.nan if truth_N is None else adjusted_rand_score(truth_N, fit.labels_N),
                "purity": np.nan if truth_N is None else purity(fit.labels_N, truth_N),
                "objective": fit.objective,
                "n_iter": fit.n_iter,
                "smallest_cluster": int(sizes.min()),
                "largest_cluster": int(sizes.max()),
                "fit_seconds": fit.seconds,
            }
        )
    return pd.DataFrame(rows)


def clusters_table(fits: Mapping[str, Fit], pictures: Pictures) -> pd.DataFrame:
    """A row per picture: its name, its class, its cluster under each loss from 1.

    Args:
        fits: of `fit_losses`.
        pictures: what was clustered.
    """
    table = pd.DataFrame({"image": pictures.names, "class": [pictures.classes[label] for label in pictures.labels_N]})
    return table.assign(**{loss: fit.labels_N + 1 for loss, fit in fits.items()})


def representatives_table(fits: Mapping[str, Fit], pictures: Pictures) -> pd.DataFrame:
    """A row per loss and cluster: its representative and its size.

    Args:
        fits: of `fit_losses`.
        pictures: what was clustered.
    """
    return pd.DataFrame(
        {"loss": loss, "cluster": cluster + 1, "pictures": size, "representative": pictures.names[row]}
        for loss, fit in fits.items()
        for cluster, (row, size) in enumerate(zip(fit.representative_M, fit.sizes().tolist(), strict=True))
    )


def sentence(frame: pd.DataFrame) -> str:
    """The finding.

    Args:
        frame: of `results`.
    """
    count = f"{frame['images'].iloc[0]} photographs in {frame['clusters'].iloc[0]} clusters under {len(frame)} losses"
    if frame["nmi"].isna().all():
        return f"{count}; there is one class only, so the clusters are compared with each other alone."
    best = frame.loc[frame["nmi"].idxmax()]
    values = ", ".join(f"{row['loss']} {row['nmi']:.3f}" for _, row in frame.iterrows())
    return f"{count}; NMI with the classes is highest for {best['loss']} ({values})."
