# SPDX-License-Identifier: MIT
"""Trained parts made up of random numbers, and scores computed from them by plain numpy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from datamodules.class_means import normalise_rows
from datamodules.cluster_datamodule import ClusterDataModule
from datamodules.partitioners.base import Partition
from lightning_modules.scores import Heads, ProbeScores


@dataclass(frozen=True)
class Parts:
    """K identities in M clusters with random class means and R head rows per class, and B probes of any length."""

    probes_BD: np.ndarray
    means_KD: np.ndarray
    partition: Partition
    rows: list[np.ndarray]
    rows_per_class: int = 1

    def heads(self) -> Heads:
        return Heads.pack(self.partition, [torch.from_numpy(rows) for rows in self.rows])

    def scores(self, chosen=slice(None)) -> ProbeScores:
        probes = torch.from_numpy(self.probes_BD[chosen])
        return ProbeScores(probes, torch.from_numpy(self.means_KD), self.partition, self.heads())

    def unit_probes(self) -> np.ndarray:
        return self.probes_BD.astype(np.float64) / np.linalg.norm(self.probes_BD.astype(np.float64), axis=1)[:, None]

    def outputs(self, cluster: int) -> np.ndarray:
        """(B, C) outputs of one head in float64, the largest of the R rows of a class."""
        outputs = self.unit_probes() @ self.rows[cluster].astype(np.float64).T
        return outputs.reshape(len(outputs), -1, self.rows_per_class).max(axis=2)

    def mean_cosines(self) -> np.ndarray:
        """(B, K) in float64."""
        return self.unit_probes() @ self.means_KD.astype(np.float64).T


def make_parts(k=11, m=4, batch=17, dim=6, seed=0, cluster_of=None, extra=None, rows_per_class=1) -> Parts:
    random = np.random.default_rng(seed)
    if cluster_of is None:
        cluster_of = np.r_[np.arange(m), random.integers(m, size=k - m)]
    partition = Partition(cluster_of, m, extra=np.zeros((0, 2)) if extra is None else np.array(extra))
    draw = lambda n: normalise_rows(random.standard_normal((n, dim)))  # noqa: E731
    rows = [draw(size * rows_per_class) for size in partition.sizes()]
    probes = draw(batch) * random.uniform(0.1, 30, size=(batch, 1)).astype(np.float32)
    return Parts(probes, draw(k), partition, rows, rows_per_class)


@pytest.fixture(scope="session")
def parts():
    """`parts(k=, m=, batch=, dim=, seed=, cluster_of=, extra=, rows_per_class=)`: see `Parts`."""
    return make_parts


@pytest.fixture
def data(toy_split):
    """Batches of 8 samples of five classes, 8-d."""
    members_C = np.array([0, 2, 3, 7, 8], np.int32)
    return ClusterDataModule.of_cluster(*toy_split, members_C, batch_size=8, seed=1)
