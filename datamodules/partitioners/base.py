# SPDX-License-Identifier: MIT
"""Partition: identities in clusters; Partitioner: the base of the methods that find one.

Axes: K identities, D embedding dimension, M clusters.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin

from datamodules.errors import InputError
from datamodules.files import atomic_folder, open_npy, read_json, write_json
from datamodules.lazy import short_repr
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import clusters_for


@dataclass(frozen=True)
class Partition:
    """K identities in M clusters, none empty, which overlap if there are `extra` memberships."""

    # (K,) int32 in [0, M): the home cluster of each identity, to which a router sends its probes.
    cluster_of: np.ndarray
    n_clusters: int  # M
    # (E, 2) int32 rows (identity, cluster) of memberships beside the home.
    extra: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    provenance: dict[str, Any] = field(default_factory=dict)  # see `Partitioner.provenance`

    __repr__ = short_repr

    def __post_init__(self):
        home = np.asarray(self.cluster_of, dtype=np.int32)
        extra = np.asarray(self.extra, dtype=np.int32).reshape(-1, 2)
        object.__setattr__(self, "cluster_of", home)
        object.__setattr__(self, "extra", extra)
        if home.ndim != 1 or len(home) == 0 or home.min() < 0 or home.max() >= self.n_clusters:
            found = f"{home.min()} to {home.max()}" if home.size else "none"
            got = f"a partition of {home.shape} identities into clusters {found}"
            raise InputError(got, f"clusters 0 to {self.n_clusters - 1}", "make the partition anew")
        empty = np.flatnonzero(np.bincount(home, minlength=self.n_clusters) == 0)
        if len(empty):
            got = f"{len(empty)} empty clusters (first: {empty[0]}) of {self.n_clusters}"
            raise InputError(got, "none empty", "ask for fewer clusters")
        if len(extra) and (extra.min() < 0 or extra[:, 0].max() >= len(home) or extra[:, 1].max() >= self.n_clusters):
            raise InputError("memberships of unknown identities or clusters", "known ones", "make the partition anew")

    @property
    def n_identities(self) -> int:
        return len(self.cluster_of)

    @property
    def overlapping(self) -> bool:
        """Whether any identity belongs to more than one cluster."""
        return len(self.extra) > 0

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray]:
        # Members in the order of the clusters, and the start of each cluster.
        identity = np.concatenate([np.arange(self.n_identities, dtype=np.int32), self.extra[:, 0]])
        cluster = np.concatenate([self.cluster_of, self.extra[:, 1]])
        pairs = np.unique(np.stack([cluster, identity], axis=1), axis=0)
        return pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(self.n_clusters + 1))

    def members(self, cluster: int) -> np.ndarray:
        """The identities of a cluster, (C,) int32, ascending; the place of an identity is its local label."""
        identities, starts = self._csr
        return identities[starts[cluster] : starts[cluster + 1]]

    def sizes(self) -> np.ndarray:
        """Identities per cluster, (M,) int64; with overlap they sum to more than K."""
        return np.diff(self._csr[1])

    def hash(self) -> str:
        identities, starts = self._csr
        digest = hashlib.sha256(np.ascontiguousarray(identities).tobytes())
        digest.update(np.ascontiguousarray(starts, dtype=np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.cluster_of).tobytes())
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """One line: number, sizes and maker of the clusters."""
        sizes = self.sizes()
        return (
            f"{self.n_identities} identities in {self.n_clusters} clusters of {sizes.min()} to {sizes.max()} "
            f"(median {np.median(sizes):g}) by {self.provenance.get('partitioner', 'hand')}"
        )

    def save(self, path: Path | str) -> None:
        """Writes partition.npy, partition.json and, with overlap, partition_extra.npy into a new folder."""
        with atomic_folder(path) as folder:
            np.save(folder / "partition.npy", self.cluster_of)
            if self.overlapping:
                np.save(folder / "partition_extra.npy", self.extra)
            facts = {"n_clusters": self.n_clusters, "sizes": self.sizes().tolist(), "hash": self.hash()}
            write_json(folder / "partition.json", {**self.provenance, **facts})

    @classmethod
    def load(cls, path: Path | str) -> "Partition":
        """Reads a folder of `save`; refuses missing, damaged and foreign files."""
        folder = Path(path)
        facts = read_json(folder / "partition.json", cure="remove the folder, the partition is made anew")
        home = np.array(open_npy(folder / "partition.npy", ("int32",), ndim=1))
        extra = np.zeros((0, 2), np.int32)
        if (file := folder / "partition_extra.npy").exists():
            extra = np.array(open_npy(file, ("int32",), ndim=2))
        n_clusters, stated = facts.get("n_clusters"), facts.get("hash")
        if not isinstance(n_clusters, int) or not 1 <= n_clusters <= len(home) or extra.shape[1] != 2:
            raise InputError(f"{folder}: n_clusters = {n_clusters}", f"1 to {len(home)}", "make the partition anew")
        provenance = {key: value for key, value in facts.items() if key not in ("n_clusters", "sizes", "hash")}
        loaded = cls(home, n_clusters, extra, provenance)
        if stated != loaded.hash():
            got = f"{folder} with hash {loaded.hash()}"
            raise InputError(got, f"{stated}, as partition.json states", "make the partition anew")
        return loaded


class Partitioner(ClusterMixin, BaseEstimator, ABC):
    """Base of all partitioners: hyper-parameters in `__init__`, data in `fit`, no state between two fits.

    They are scikit-learn's clusterers (`get_params`, `clone`, `fit_predict`, `labels_`: the home clusters), but `fit`
    takes the number of clusters and returns the Partition.

    A partitioner of class means into disjoint clusters defines `assign`. One of overlapping clusters, or of samples,
    overrides `memberships`; `needs_samples` says whether `fit` needs the training samples.
    """

    needs_samples: bool = False

    def memberships(
        self, class_means_KD: np.ndarray, m: int, seed: int, samples: TrainingSamples | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Home clusters as of `assign`, and (E, 2) rows (identity, cluster) of memberships beside them."""
        return self.assign(class_means_KD, m, seed), np.zeros((0, 2), np.int32)

    @abstractmethod
    def assign(self, class_means_KD: np.ndarray, m: int, seed: int) -> np.ndarray:
        """Clusters of (K, D) float32 unit rows, 1 < m < K: (K,) integers in [0, m), each at least once."""

    def fit(
        self, class_means_KD: np.ndarray, m: int | None = None, seed: int = 0, samples: TrainingSamples | None = None
    ) -> Partition:
        """Partitions the identities of (K, D) float32 unit rows into m clusters, alike for the same seed.

        None gives `clusters_for(K)`.

        Raises:
            InputError: m < 1 or m > K, or no samples although they are needed.
        """
        k = len(class_means_KD)
        m = clusters_for(k) if m is None else m
        if not 1 <= m <= k:
            cure = "lower n_subnets or enrol more identities"
            raise InputError(f"m = {m} clusters for {k} identities", f"1 to {k}", cure)
        if self.needs_samples and samples is None:
            raise InputError(f"{type(self).__name__} without samples", "the training samples", "pass samples= to fit")
        if m in (1, k):
            home, extra = np.arange(k) % m, np.zeros((0, 2), np.int32)
        else:
            home, extra = self.memberships(class_means_KD, m, seed, samples)
        partition = Partition(home, m, extra, self.provenance(class_means_KD, seed))
        self.labels_ = partition.cluster_of
        return partition

    def provenance(self, class_means_KD: np.ndarray, seed: int) -> dict[str, Any]:
        """The partitioner, its arguments, the seed and a hash of the class means, as a partition keeps them."""
        means_hash = hashlib.sha256(np.ascontiguousarray(class_means_KD).tobytes()).hexdigest()[:16]
        maker = {"partitioner": type(self).__name__, "arguments": self.get_params(deep=False)}
        return {**maker, "seed": seed, "class_means_hash": means_hash}
