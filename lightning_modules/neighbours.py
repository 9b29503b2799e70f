# SPDX-License-Identifier: MIT
"""Recognition by the nearest neighbours. Axes: N samples, D dimensions, k neighbours."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from datamodules.errors import InputError


def leave_one_out_accuracy(z_ND: np.ndarray, labels_N: np.ndarray, k: int = 1) -> float:
    """Share of samples whose k nearest others vote for their own label, in [0, 1].

    Samples whose label is unique are not asked about, but stay among the neighbours. Of labels with equally many votes
    the one with the nearest voter wins. Raises InputError: k outside 1 <= k < N, or no label with two samples.
    """
    if not 1 <= k < len(z_ND):
        raise InputError(f"k = {k} neighbours of {len(z_ND)} samples", f"1 to {len(z_ND) - 1}", "set knn")
    asked = np.flatnonzero(np.bincount(labels_N)[labels_N] > 1)
    if not len(asked):
        raise InputError("no identity with two images", "at least one", "hold out more identities")
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z_ND)
    votes_Nk = labels_N[search.kneighbors(return_distance=False)[asked]]  # a sample is not its own neighbour
    count_Nk = (votes_Nk[:, :, None] == votes_Nk[:, None, :]).sum(axis=2)  # votes for the label of each neighbour
    winner_N = votes_Nk[np.arange(len(asked)), count_Nk.argmax(axis=1)]
    return float((winner_N == labels_N[asked]).mean())
