# SPDX-License-Identifier: MIT
"""Recognition by the nearest neighbours.

Axes: N samples, D dimensions, k neighbours.
"""

import numpy as np
import torch

from datamodules.errors import InputError

CHUNK_ROWS = 2048


def leave_one_out_accuracy(z_ND: np.ndarray, labels_N: np.ndarray, k: int = 1) -> float:
    """Share of samples whose k nearest others vote for their own label, in [0, 1].

    Samples whose label no other sample has are asked for nobody, but stay among the neighbours. Of labels with equally
    many votes the one with the nearest voter wins.

    Args:
        z_ND: rows of unit length.
        labels_N: labels.
        k: number of neighbours, 1 <= k < N.

    Raises:
        InputError: k out of range, or no label with two samples.
    """
    if not 1 <= k < len(z_ND):
        raise InputError(f"k = {k} neighbours of {len(z_ND)} samples", f"1 to {len(z_ND) - 1}", "set knn")
    asked = np.flatnonzero(np.bincount(labels_N)[labels_N] > 1)
    if not len(asked):
        raise InputError("no identity with two images", "at least one", "hold out more identities")
    z, labels = torch.from_numpy(np.ascontiguousarray(z_ND, np.float32)), torch.from_numpy(labels_N.astype(np.int64))
    right = 0
    for start in range(0, len(asked), CHUNK_ROWS):
        rows = torch.from_numpy(asked[start : start + CHUNK_ROWS])
        cosine = z[rows] @ z.T
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        votes = labels[cosine.topk(k, dim=1).indices]
        count = (votes[:, :, None] == votes[:, None, :]).sum(dim=2)  # votes for the label of each neighbour
        right += int((votes.gather(1, count.argmax(dim=1, keepdim=True))[:, 0] == labels[rows]).sum())
    return right / len(asked)
