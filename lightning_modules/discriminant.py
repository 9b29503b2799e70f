# SPDX-License-Identifier: MIT
"""Class rows that start where the linear discriminant puts them.

Axes: N samples, J identities with samples, C classes, D embedding dimension.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.class_means import normalise_rows
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.initialisers import Initialiser

MOST_SAMPLES = 1 << 15  # 64 MiB at D = 512; 64 samples per direction tell the covariance


class DiscriminantInit(Initialiser):
    """Each class starts at its class mean seen through the within-class covariance W of the head's samples.

    row_c = v / |v| with v = (I + a W')^-1 mean_c, W' = W tr(W) / tr(W^2).

    These are the directions of the linear discriminant analysis with covariance W + I e / a and the effective
    eigenvalue e = tr(W^2) / tr(W) (Fisher, Annals of Eugenics 7, 1936; shrinkage to a multiple of I: Friedman, JASA
    84, 1989). A direction in which samples of one person differ (pose, light, pen) counts less. There is no intercept,
    as rows have unit length. The rows need no training, or one short epoch (docs/benchmarks.md).

    Args:
        strength: a >= 0. 0 gives the class means; 1 halves the weight of a direction of effective variance.
    """

    informed = True

    def __init__(self, strength: float = 1.0):
        if not 0 <= strength < float("inf"):
            raise ValueError(f"got strength = {strength}; expected a finite number of at least 0")
        self.strength = strength
        self.within_DD: Tensor | None = None

    def fit(self, samples: TrainingSamples) -> "DiscriminantInit":
        fitted = DiscriminantInit(self.strength)
        fitted.within_DD = within_class_covariance(samples)
        return fitted

    def rows(self, class_means_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Unit rows; the class means before `fit`. See `Initialiser.rows`."""
        trace = 0.0 if self.within_DD is None else float(self.within_DD.trace())
        if self.within_DD is None or not trace:
            return class_means_CD.clone()
        within_DD = self.within_DD.double()
        scaled_DD = within_DD * (self.strength * trace / float(within_DD.square().sum()))
        inverse_DD = torch.linalg.inv(torch.eye(len(scaled_DD), dtype=torch.float64) + scaled_DD).float()
        return F.normalize(class_means_CD.clone() @ inverse_DD)


def within_class_covariance(samples: TrainingSamples, most: int = MOST_SAMPLES) -> Tensor:
    """Pooled covariance of unit samples around their class means: (D, D) float32; zeros if no class has two samples.

    Args:
        most: samples that are read: equally many of each class, at least two, of evenly drawn classes.
    """
    kept_n = _evenly(samples.split.labels, most)
    # A copy: torch aligns its memory alike each time, and the products then round alike in every run.
    unit_ND = torch.tensor(normalise_rows(samples.embeddings_ND[samples.split.rows[kept_n]]))
    of_N, n_J = np.unique(samples.split.labels[kept_n], return_inverse=True, return_counts=True)[1:]
    label_N, count_J = torch.from_numpy(of_N), torch.from_numpy(n_J)
    sum_JD = torch.zeros(len(count_J), unit_ND.shape[1]).index_add_(0, label_N, unit_ND)
    unit_ND -= (sum_JD / count_J[:, None])[label_N]
    return unit_ND.T @ unit_ND / max(1, len(label_N) - len(count_J))


def _evenly(labels_N: np.ndarray, most: int) -> np.ndarray:
    # Places of at most `most` samples; labels are sorted. Single samples tell nothing of a covariance.
    start_J, count_J = np.unique(labels_N, return_index=True, return_counts=True)[1:]
    several_J = np.flatnonzero(count_J > 1)
    if not len(several_J):
        return np.zeros(0, np.int64)
    each = max(2, most // len(several_J))
    step = -(-2 * len(several_J) // most)
    chosen_J = several_J[:: max(1, step)]
    taken_J = np.minimum(count_J[chosen_J], each)
    first_J = np.cumsum(taken_J) - taken_J
    return np.arange(taken_J.sum()) + np.repeat(start_J[chosen_J] - first_J, taken_J)
