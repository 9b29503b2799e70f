# SPDX-License-Identifier: MIT
"""Class means: one unit vector per identity, in one streaming pass.

Axes: N samples, K identities, D embedding dimension.
"""

import numpy as np

from datamodules.embedding_set import CHUNK_ROWS
from datamodules.splits import Split


def moderate_rows(rows_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite rows times powers of two, so that squared lengths stay within float32: 1e20 would overflow, 1e-25 vanish.

    Returns:
        (N, D) float32 rows whose largest absolute value is in [0.5, 1), or near it, and (N,) exponents: rows_ND is the
        first times 2 to the power of the second. Rows of zeros stay zero.
    """
    rows_ND = np.asarray(rows_ND, dtype=np.float32)
    largest_N = np.maximum(rows_ND.max(axis=1, initial=0), -rows_ND.min(axis=1, initial=0))
    power_N = np.clip(np.frexp(largest_N)[1], -126, 126)  # 2 to the power of +-126 is a float32 that rounds nothing
    return rows_ND * np.exp2(-power_N, dtype=np.float32)[:, None], power_N


def normalise_rows(rows_ND: np.ndarray) -> np.ndarray:
    """Finite rows divided by their Euclidean length, as float32: (N, D); rows of zeros stay zero."""
    rows_ND, _ = moderate_rows(rows_ND)
    length = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))[:, None]
    return np.divide(rows_ND, length, out=np.zeros_like(rows_ND), where=length > 0)


def class_means(embeddings_ND: np.ndarray, split: Split, n_identities: int) -> np.ndarray:
    """The mean of the L2-normalised embeddings of each identity, L2-normalised: (K, D) float32.

    An identity whose embeddings cancel out exactly has a row of zeros.
    """
    return normalise_rows(class_sums(embeddings_ND, split, n_identities))


def class_sums(embeddings_ND: np.ndarray, split: Split, n_identities: int) -> np.ndarray:
    """The sum of the L2-normalised embeddings of each identity: (K, D) float32, zeros without a sample.

    Reads the rows of the split once; memory is one chunk and the result, for any N.
    """
    total_KD = np.zeros((n_identities, embeddings_ND.shape[1]), dtype=np.float32)
    for start in range(0, len(split), CHUNK_ROWS):
        rows, labels = split.rows[start : start + CHUNK_ROWS], split.labels[start : start + CHUNK_ROWS]
        first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        # reduceat sums runs of one label; a label cut by the chunk's edge is completed by the next chunk.
        total_KD[labels[first]] += np.add.reduceat(normalise_rows(embeddings_ND[rows]), first, axis=0)
    return total_KD
