# SPDX-License-Identifier: MIT
"""Synthetic identities: embedding sets on disk, and class means and probes of very many without training images.

Axes: K identities, B probes, D embedding dimension.
"""

import numpy as np

from datamodules.class_means import normalise_rows
from datamodules.embedding_set import EmbeddingSet
from datamodules.synthetic import SyntheticIdentities
from experiments.benchmarks.config import Bench

TRAINING_IMAGES = 18  # averaged in a class mean, whose noise is that of one image divided by sqrt(18)
NOISE = 0.58


def synthetic_set(bench: Bench, n_identities: int, images: int, dim: int) -> EmbeddingSet:
    """Identities with equally many images each, written once into the scratch folder."""
    folder = bench.folder / f"set-{n_identities}-{images}-{dim}"
    if folder.exists():
        return EmbeddingSet.open(folder, check_values=False)
    made = SyntheticIdentities(n_identities, dim, samples_per_identity=images, samples_spread=0.0, seed=bench.cfg.seed)
    return made.write(folder)


def class_means_of(n_identities: int, dim: int, seed: int) -> np.ndarray:
    """(K, D) float32 unit class means, each drawn as one image with the noise of an average of 18."""
    people = SyntheticIdentities(
        n_identities, dim, samples_per_identity=1, samples_spread=0.0, noise=NOISE / TRAINING_IMAGES**0.5,
        bad_share=0.0, wrong_share=0.0, seed=seed,
    )  # fmt: skip
    means_KD = np.empty((n_identities, dim), np.float32)
    for chunk in people.chunks():
        means_KD[chunk.labels[0] : chunk.labels[-1] + 1] = normalise_rows(chunk.embeddings)
    return means_KD


def probes_of(n_identities: int, dim: int, seed: int, n_probes: int) -> tuple[np.ndarray, np.ndarray]:
    """New images of the identities of `class_means_of` with the same seed: (B, D) float32, and (B,) identities.

    Args:
        n_probes: B, at most K; no identity comes twice.
    """
    # Two images each, of which the second is taken: its noise is not that of the class mean.
    people = SyntheticIdentities(n_identities, dim, samples_per_identity=2, samples_spread=0.0, noise=NOISE, seed=seed)
    random = np.random.default_rng([seed, 5])
    who_B = np.sort(random.choice(n_identities, n_probes, replace=False))
    rows = np.empty((n_probes, dim), np.float32)
    for chunk in people.chunks():
        here = (who_B >= chunk.labels[0]) & (who_B <= chunk.labels[-1])
        rows[here] = chunk.embeddings[2 * (who_B[here] - chunk.labels[0]) + 1]
    order = random.permutation(n_probes)
    return rows[order], who_B[order]
