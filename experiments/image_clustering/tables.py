# SPDX-License-Identifier: MIT
"""Clusterings in tables and in one sentence.

Axes: N images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

from datamodules.embedding_set import EmbeddingSet
from experiments.image_clustering.fits import Fit


def results(fits: Mapping[str, Fit], pictures: EmbeddingSet, **common: Any) -> pd.DataFrame:
    """The rows of results.csv, one per loss; `common` are the first columns, the same in every row."""
    rows = []
    for loss, fit in fits.items():
        sizes = fit.sizes()
        found = {"images": len(pictures), "clusters": len(sizes), "loss": loss, **against_classes(fit, pictures)}
        found |= {"objective": fit.objective, "n_iter": fit.n_iter}
        found |= {"smallest_cluster": int(sizes.min()), "largest_cluster": int(sizes.max())}
        rows.append({**common, **found, "fit_seconds": fit.seconds})
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


def clusters(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """A row per picture: its name, its class, its cluster under each loss from 1."""
    table = pd.DataFrame({"image": pictures.files, "class": np.array(pictures.identities)[pictures.labels]})
    return table.assign(**{loss: fit.labels_N + 1 for loss, fit in fits.items()})


def representatives(fits: Mapping[str, Fit], pictures: EmbeddingSet) -> pd.DataFrame:
    """A row per loss and cluster: its size and its representative."""
    return pd.DataFrame(
        {"loss": loss, "cluster": cluster + 1, "pictures": size, "representative": pictures.files[row]}
        for loss, fit in fits.items()
        for cluster, (row, size) in enumerate(zip(fit.representative_M, fit.sizes().tolist(), strict=True))
    )


def sentence(frame: pd.DataFrame) -> str:
    """The finding; `frame` is that of `results`."""
    count = f"{frame['images'].iloc[0]} photographs in {frame['clusters'].iloc[0]} clusters under {len(frame)} losses"
    if frame["nmi"].isna().all():
        return f"{count}; there is one class only, so the clusters are compared with each other alone."
    best = frame.loc[frame["nmi"].idxmax()]
    values = ", ".join(f"{row['loss']} {row['nmi']:.3f}" for _, row in frame.iterrows())
    return f"{count}; NMI with the classes is highest for {best['loss']} ({values})."
