# SPDX-License-Identifier: MIT
"""Class means: one unit vector per identity, in one streaming pass.

Axes: N samples, K identities, D embedding dimension.
"""

import numpy as np

from datamodules.embedding_set import CHUNK_ROWS
from datamodules.splits import Split


def normalise_rows(rows_ND: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, as float32: (N, D); rows of zeros stay zero.

    Args:
        rows_ND: of any length and floating dtype.
    """
    rows_ND = np.asarray(rows_ND, dtype=np.float32)
    # The squared length of a float16 vector can pass float32's precision but never its range.
    length = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))[:, None]
    return np.divide(rows_ND, length, out=np.zeros_like(rows_ND), where=length > 0)


def class_means(embeddings_ND: np.ndarray, split: Split, n_identities: int) -> np.ndarray:
    """The mean of the L2-normalised embeddings of each identity, L2-normalised.

    Reads the rows of the split once, a chunk at a time: memory is one chunk and the result, whatever N is.

    Args:
        embeddings_ND: (N, D), memory-mapped or not.
        split: which rows belong to which identity, usually the training split; labels non-decreasing.

    Returns:
        (K, D) float32 rows of unit length. An identity whose embeddings cancel out exactly has a row of zeros.
    """
    total_KD = np.zeros((n_identities, embeddings_ND.shape[1]), dtype=np.float32)
    for start in range(0, len(split), CHUNK_ROWS):
        rows, labels = split.rows[start : start + CHUNK_ROWS], split.labels[start : start + CHUNK_ROWS]
        first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        # reduceat sums runs of one label; a label cut by the chunk's edge is completed by the next chunk.
        total_KD[labels[first]] += np.add.reduceat(normalise_rows(embeddings_ND[rows]), first, axis=0)
    return normalise_rows(total_KD)
