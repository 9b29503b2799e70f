# SPDX-License-Identifier: MIT
"""A map of the class means in the plane, with the cluster of each identity in every partition of a run.

Axes: K identities, S identities drawn, D embedding dimension.
"""

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from datamodules.files import make_folder, write_text
from experiments.comparison.coordinator import Cell, Coordinator
from experiments.comparison.scenarios import Scenario

MOST_POINTS = 600
PCA_DIM = 50
FEWEST_FOR_NEIGHBOURS = 30


def write_map(coordinator: Coordinator, cells: list[Cell], scenarios: list[Scenario]) -> None:
    """Writes details/map.csv: a row for each drawn identity and partition, with the first seed of each size."""
    rows: list[pd.DataFrame] = []
    for cell in {(cell.n_identities, cell.n_subnets): cell for cell in reversed(cells)}.values():
        means_KD = coordinator.data(cell).class_means_KD
        drawn_S = np.linspace(0, len(means_KD) - 1, min(MOST_POINTS, len(means_KD))).astype(int)
        partitions = {
            scenario.names["partitioner"]: partition for scenario in scenarios
            if (partition := coordinator.partition(cell, scenario)).n_clusters > 1
        }  # fmt: skip
        if not partitions:
            continue
        plane_S2 = plane(means_KD[drawn_S])
        for name, partition in sorted(partitions.items()):
            rows.append(pd.DataFrame({
                "dataset": coordinator.dataset, "n_identities": cell.n_identities, "n_subnets": cell.n_subnets,
                "seed": cell.seed, "partitioner": name, "label": drawn_S, "cluster": partition.cluster_of[drawn_S],
                "x": plane_S2[:, 0], "y": plane_S2[:, 1],
            }))  # fmt: skip
    if rows:
        make_folder(coordinator.run.path / "details")
        text = pd.concat(rows).to_csv(index=False, float_format="%.4g")
        write_text(coordinator.run.path / "details" / "map.csv", text)


def plane(means_SD: np.ndarray) -> np.ndarray:
    """Projects class means to the plane; neighbours stay neighbours, and the result is deterministic.

    t-SNE (van der Maaten & Hinton, 2008) after PCA to 50 dimensions, from the first two principal components; fewer
    than 30 points are placed by these components alone.

    Args:
        means_SD: (S, D) unit class means.

    Returns:
        (S, 2) float64, centred; the farthest point has distance 1.
    """
    means_SD = np.asarray(means_SD, dtype=np.float64)
    dims = min(PCA_DIM, *means_SD.shape)
    reduced = PCA(dims, svd_solver="full").fit_transform(means_SD)
    if len(means_SD) >= FEWEST_FOR_NEIGHBOURS and reduced.shape[1] >= 2:
        perplexity = min(30.0, (len(means_SD) - 1) / 3)
        reduced = TSNE(2, perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(reduced)
    points = np.zeros((len(means_SD), 2))
    points[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    points -= points.mean(0)
    farthest = np.linalg.norm(points, axis=1).max()
    return points / farthest if farthest > 0 else points
