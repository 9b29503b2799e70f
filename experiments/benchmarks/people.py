# SPDX-License-Identifier: MIT
"""Class means and probes of very many synthetic people, without their training images.

Axes: K identities, B probes, D embedding dimension.
"""

import numpy as np

from datamodules.class_means import normalise_rows
from datamodules.synthetic import CHUNK_IDENTITIES, SyntheticIdentities

TRAINING_IMAGES = 18  # of which a class mean would be the average: its noise is that of one image divided by sqrt(18)
NOISE = 0.58


def class_means_of(n_identities: int, dim: int, seed: int) -> np.ndarray:
    """Unit class means with the cluster structure of the synthetic people: (K, D) float32.

    A class mean is drawn as one image with the noise that an average of 18 would have.
    """
    people = SyntheticIdentities(
        n_identities, dim, samples_per_identity=1, samples_spread=0.0, noise=NOISE / TRAINING_IMAGES**0.5,
        bad_share=0.0, wrong_share=0.0, seed=seed,
    )  # fmt: skip
    means_KD = np.empty((n_identities, dim), np.float32)
    for chunk in people.chunks():
        means_KD[chunk.labels[0] : chunk.labels[-1] + 1] = normalise_rows(chunk.embeddings)
    return means_KD


def probes_of(n_identities: int, dim: int, seed: int, n_probes: int) -> tuple[np.ndarray, np.ndarray]:
    """New images of enrolled people, spread over all of them.

    Args:
        seed: of the people, as for `class_means_of`.
        n_probes: B, at most K.

    Returns:
        (B, D) float32 embeddings and (B,) identities.
    """
    # Two images each, of which the second is taken: its noise is not that of the class mean.
    people = SyntheticIdentities(n_identities, dim, samples_per_identity=2, samples_spread=0.0, noise=NOISE, seed=seed)
    random = np.random.default_rng([seed, 5])
    who_B = np.sort(random.choice(n_identities, n_probes, replace=False))
    rows = np.empty((n_probes, dim), np.float32)
    for c in np.unique(who_B // CHUNK_IDENTITIES):
        here = who_B // CHUNK_IDENTITIES == c
        rows[here] = people.chunk(int(c)).embeddings[2 * (who_B[here] - c * CHUNK_IDENTITIES) + 1]
    order = random.permutation(n_probes)
    return rows[order], who_B[order]
