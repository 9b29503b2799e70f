# SPDX-License-Identifier: MIT
"""Recognition, clustering and verification of the identities that were held out.

Axes: N samples, D dimensions.
"""

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix
from torch import nn
from torch.utils.data import DataLoader

from datamodules.partitioners.base import Partitioner
from datamodules.sources.pairs import VerificationPairs
from lightning_modules.neighbours import leave_one_out_accuracy
from lightning_modules.verification import Verification, squared_distances, verify


@torch.no_grad()
def embed(network: nn.Module, loader: DataLoader) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of all samples: (N, D) float32 of unit length, and (N,) labels.

    Args:
        network: from a batch of samples to rows of unit length.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    batches = [(network(samples.to(device)).float().cpu(), labels) for samples, labels in loader]
    return torch.cat([z for z, _ in batches]).numpy(), torch.cat([labels for _, labels in batches]).numpy()


def evaluate(
    z_ND: np.ndarray, labels_N: np.ndarray, partitioner: Partitioner, cfg: DictConfig
) -> tuple[dict[str, float], Verification]:
    """Measures an embedding.

    Args:
        z_ND: rows of unit length.

    Returns:
        Columns of results.csv (knn_accuracy, pair_f1 and the verification's rates in percent; nmi, adjusted_rand and
        pair_f1 are of clusters against identities), and the verification of drawn pairs.

    Raises:
        InputError: too few images for the pairs, the neighbours or the FARs asked for.
    """
    _, labels_N = np.unique(labels_N, return_inverse=True)
    wanted = cfg.evaluation
    pairs = VerificationPairs.draw(labels_N, wanted.folds, wanted.pairs, cfg.seed)
    distance_P = squared_distances(z_ND, pairs.left, pairs.right)
    verification = verify(distance_P, pairs.same, pairs.fold, tuple(wanted.fars))
    accuracy = leave_one_out_accuracy(z_ND, labels_N, wanted.knn)
    clusters_N = partitioner.fit(z_ND, int(labels_N.max()) + 1, cfg.seed).cluster_of
    return {
        "knn_accuracy": 100 * accuracy,
        "nmi": normalized_mutual_info_score(labels_N, clusters_N),
        "adjusted_rand": adjusted_rand_score(labels_N, clusters_N),
        "pair_f1": 100 * pair_f1(labels_N, clusters_N),
        **verification.metrics(),
    }, verification


def pair_f1(labels_N: np.ndarray, clusters_N: np.ndarray) -> float:
    """F1 over pairs of samples: in one cluster and of one identity, in [0, 1]."""
    (_, false_pairs), (missed, right) = pair_confusion_matrix(labels_N, clusters_N)
    return float(2 * right / max(2 * right + false_pairs + missed, 1))


def sentence(frame: pd.DataFrame) -> str:
    """The finding."""
    first, best = frame.iloc[0], frame.loc[frame["accuracy"].iloc[1:].idxmax()]
    return (
        f"Verification accuracy of held-out identities {first['accuracy']:.2f} ± {first['accuracy_std']:.2f} % for "
        f"{first['method'].replace('_', ' ')}, {best['accuracy']:.2f} ± {best['accuracy_std']:.2f} % with "
        f"{best['method'].replace('_', ' ')}, the best of {len(frame) - 1} trained; recognition by neighbours "
        f"{first['knn_accuracy']:.2f} % and {best['knn_accuracy']:.2f} %."
    )
