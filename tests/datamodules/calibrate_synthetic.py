# SPDX-License-Identifier: MIT
"""How the defaults of `SyntheticIdentities` were matched to the paper: figures of Tables 1 and 2 without training.

    python tests/datamodules/calibrate_synthetic.py --seeds 0 1 2
    python tests/datamodules/calibrate_synthetic.py --sizes 10000 --set noise=0.7 n_families=1000

Axes: N samples, K identities, D dimensions, M clusters.
"""

import argparse
from dataclasses import fields

import numpy as np
import torch

from datamodules.class_means import class_means, normalise_rows
from datamodules.embedding_set import EmbeddingSet
from datamodules.partitioners.kmeans import KMeansPartitioner
from datamodules.partitioners.random import RandomPartitioner
from datamodules.splits import split_identities
from datamodules.synthetic import SyntheticIdentities

# MS-Celeb-1M, Tables 1 and 2, test column: {N: (m, {figure: percent})}.
FIGURES = ("knn", "kmeans_mean", "kmeans_nearest", "random_mean", "random_nearest")
PAPER = {
    5_000: (2, {"knn": 93.47}),
    10_000: (5, dict(zip(FIGURES, (91.01, 85.69, 97.75, 23.35, 92.71), strict=True))),
    20_000: (10, dict(zip(FIGURES, (90.63, 77.98, 96.25, 11.76, 91.59), strict=True))),
    50_000: (25, {"knn": 88.98}),
}
BANDS = {"knn": 1.5, "kmeans_mean": 4.0, "kmeans_nearest": 1.0, "random_nearest": 1.5}  # at N = 10,000; twice at 20,000
TITLES = {
    "knn": "KNN, macro recall",
    "kmeans_mean": "k-means, cluster mean",
    "kmeans_nearest": "k-means, nearest class",
    "random_mean": "random, cluster mean",
    "random_nearest": "random, nearest class",
}


def measure(synthetic: SyntheticIdentities, m: int, seed: int = 0, probes: int | None = None) -> dict[str, float]:
    """The figures of `TITLES` for one set, in percent: macro recall of KNN, shares of test images routed rightly.

    Args:
        synthetic: what to generate (in memory).
        m: clusters.
        seed: of split and partitions.
        probes: test images, at most, drawn at random.
    """
    made = EmbeddingSet(*synthetic.generate())
    splits = split_identities(made, seed=seed, max_test_probes=probes)
    means_KD = class_means(made.embeddings, splits.train, splits.n_identities)
    probes_ND, truth_N = normalise_rows(made.embeddings[splits.test.rows]), splits.test.labels
    nearest_N = most_similar(probes_ND, means_KD)
    right_K = np.bincount(truth_N, weights=nearest_N == truth_N, minlength=splits.n_identities)
    images_K = np.bincount(truth_N, minlength=splits.n_identities)
    figures = {"knn": float((right_K / np.maximum(images_K, 1))[images_K > 0].mean())}
    for name, partitioner in (("kmeans", KMeansPartitioner()), ("random", RandomPartitioner())):
        cluster_of_K = partitioner.assign(means_KD, m, seed)
        centres_MD = normalise_rows(np.stack([means_KD[cluster_of_K == cluster].mean(axis=0) for cluster in range(m)]))
        figures[f"{name}_mean"] = float((most_similar(probes_ND, centres_MD) == cluster_of_K[truth_N]).mean())
        figures[f"{name}_nearest"] = float((cluster_of_K[nearest_N] == cluster_of_K[truth_N]).mean())
    return {name: 100 * value for name, value in figures.items()}


def most_similar(probes_ND: np.ndarray, references_RD: np.ndarray, block: int = 4096) -> np.ndarray:
    """Row of the reference with the highest cosine for each probe (both of unit length): (N,) int64."""
    references_DR = torch.from_numpy(np.ascontiguousarray(references_RD.T))
    parts = [(part @ references_DR).argmax(dim=1) for part in torch.from_numpy(probes_ND).split(block)]
    return torch.cat(parts).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Synthetic identities beside the paper, as a Markdown table.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(PAPER), choices=list(PAPER))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KNOB=VALUE", help="fields of SyntheticIdentities")
    arguments = parser.parse_args()
    kinds = {field.name: field.type for field in fields(SyntheticIdentities)}
    knobs = {name: kinds[name](value) for name, value in (pair.split("=") for pair in arguments.set)}
    print("| N, m | figure | paper | synthetic (mean ± standard deviation) | each seed |\n|---|---|---|---|---|")
    for n in arguments.sizes:
        m, paper = PAPER[n]
        runs = [measure(SyntheticIdentities(n, seed=seed, **knobs), m, seed) for seed in arguments.seeds]
        for name, title in TITLES.items():
            values = np.array([run[name] for run in runs])
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            each = " ".join(f"{value:.2f}" for value in values)
            print(f"| {n}, {m} | {title} | {paper.get(name, '-')} | {values.mean():.2f}{spread} | {each} |", flush=True)


if __name__ == "__main__":
    main()
