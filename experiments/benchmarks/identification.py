# SPDX-License-Identifier: MIT
"""Naming single probes and batches: ours, from probe to name, against faiss searching the class means.

Axes: K identities, M clusters, B probes, D embedding dimension.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch

from datamodules.errors import InputError
from datamodules.partitioners.kmeans import KMeansPartitioner
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.pairing import Skipped, measure_in_turn, record, seconds, with_peak_memory
from experiments.benchmarks.people import class_means_of, probes_of
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.identifier import Identifier
from lightning_modules.indexes.base import ClassIndex
from lightning_modules.indexes.clusters import Clusters
from lightning_modules.indexes.exact import Exact
from lightning_modules.indexes.hnsw import Hnsw
from lightning_modules.indexes.ivf import InvertedFile
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # of what an index looks into, tried in order
RIVALS = ("faiss_flat", "faiss_ivf", "faiss_hnsw")
EXACT_BELOW = 0.5  # 5 of 100 synthetic probes lie under it: strangers and bad photographs
FILL_SECONDS = 0.5
SINGLE_PROBES, MEAN_PROBES = 50, 200


@dataclass
class IdentificationBenchmark(Group):
    """Milliseconds per probe at equal agreement with exact search.

    Ours is `Identifier.identify`: check, normalise, find the cluster of the nearest class mean by an index, evaluate
    that cluster's head, give the name. faiss searches the class means for the nearest one. Every index looks into as
    little as gives the agreement asked for: ours of its answers with those of exact routing, faiss's of its nearest
    class mean with that of IndexFlatIP.

    Args:
        batches: values of B; a batch of 1 is a median over single probes.
        ours: indexes of ours to try: exact, clusters, ivf, hnsw.
        against: some of faiss_flat, faiss_ivf (as many lists as clusters), faiss_hnsw.
        agreement: share of the probes that must be answered alike, in percent.
        per_cluster: identities per cluster; M is K divided by it.
        n_probes: probes on which agreement is measured.
        hnsw_most: K above which no graph is built: it takes minutes for a million on two cores.
    """

    n_identities: list[int]
    batches: Sequence[int] = (1, 1024)
    ours: Sequence[str] = ("clusters",)
    against: Sequence[str] = RIVALS
    agreement: float = 99.5
    per_cluster: int = 2500
    n_probes: int = 2000
    repeats: int = 5
    dim: int = 512
    hnsw_most: int = 100_000

    def __post_init__(self):
        if wrong := set(self.against) - set(RIVALS) | set(self.ours) - set(OUR_INDEXES):
            raise InputError(f"{sorted(wrong)}", f"of {RIVALS} and {tuple(OUR_INDEXES)}", "correct the suite")

    def measure(self, bench: Bench) -> Iterator[dict[str, Any] | Skipped]:
        """See `Group.measure`."""
        for k in self.n_identities:
            yield from self._size(bench, k)

    def _size(self, bench: Bench, k: int) -> Iterator[dict[str, Any] | Skipped]:
        # Our class means are a view of the flat index's, which saves a copy of several gigabytes.
        flat = faiss.IndexFlatIP(self.dim)
        flat.add(class_means_of(k, self.dim, bench.cfg.seed))
        means_KD = faiss.rev_swig_ptr(flat.get_xb(), k * self.dim).reshape(k, self.dim)
        probes_BD, who_B = probes_of(k, self.dim, bench.cfg.seed, min(self.n_probes, k))
        unit_BD = torch.nn.functional.normalize(torch.from_numpy(probes_BD)).numpy()
        identifier = identifier_of(means_KD, max(1, k // self.per_cluster), bench.cfg.seed)
        exact = identifier.identify(probes_BD)
        nearest_B = flat.search(unit_BD, 1)[1][:, 0]
        ours = []
        for name in self.ours:
            if name == "hnsw" and k > self.hnsw_most:
                yield Skipped(f"identify with {name}, {k} classes", "all", f"more than hnsw_most = {self.hnsw_most}")
                continue
            found, alike, facts = self._smallest(identifier, name, probes_BD, exact.index)
            right = 100 * float((found.identify(probes_BD).index == who_B).mean())
            facts |= {
                "accuracy": right, "theirs_accuracy": 100 * float((nearest_B == who_B).mean()), "our_index": name,
                "exact_below": EXACT_BELOW, "agreement": alike, "clusters": identifier.partition.n_clusters,
            }  # fmt: skip
            ours.append((found, facts))
        for rival in self.against:  # outside: a graph over a million takes longer to build than all else
            if rival == "faiss_hnsw" and k > self.hnsw_most:
                yield Skipped(f"identify, {k} classes", rival, f"more than hnsw_most = {self.hnsw_most}")
                continue
            known = (unit_BD, nearest_B, self.agreement)
            their = _faiss_index(rival, flat, means_KD, identifier.partition.n_clusters, *known)
            for found, facts in ours:
                for batch in self.batches:
                    yield self._pair(k, batch, rival, found, their[0], probes_BD, unit_BD, {**facts, **their[1]})
            del their

    def _smallest(
        self, identifier: Identifier, name: str, probes_BD: np.ndarray, exact_B: np.ndarray
    ) -> tuple[Identifier, float, dict[str, Any]]:
        fitted, made = identifier.index, OUR_INDEXES[name]
        for size in STEPS:
            fitted = made(size, fitted)
            opened, peak = with_peak_memory(partial(_opened, identifier, fitted))
            fitted = opened.index
            alike = 100 * float((opened.identify(probes_BD).index == exact_B).mean())
            if alike >= self.agreement or name == "exact":
                break
        return opened, alike, {"looked_into": size, "index_mb": peak}

    def _pair(
        self, k: int, batch: int, rival: str, identifier: Identifier, their: Callable, probes_BD: np.ndarray,
        unit_BD: np.ndarray, facts: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        ours = partial(_milliseconds, identifier.identify, probes_BD, batch)
        sides = {"ours": ours, "theirs": partial(_milliseconds, their, unit_BD, batch)}
        for side in sides.values():
            side()  # the first call opens indexes and touches memory
        taken = measure_in_turn(sides, self.repeats)
        if batch == 1:  # a few probes take the exact way, which a median does not show
            facts["mean_ms"] = 1e3 * float(np.mean(_single_seconds(identifier.identify, probes_BD[:MEAN_PROBES])))
        return record("identify", k, batch, "highest", rival, "ms", taken["ours"], taken["theirs"], **facts)


def identifier_of(means_KD: np.ndarray, m: int, seed: int) -> Identifier:
    """An identifier whose heads are the class means themselves: its speed is that of a trained one.

    Args:
        means_KD: (K, D) float32 unit class means.
    """
    partition = KMeansPartitioner(max_iter=10, faiss_above=0).fit(means_KD, m, seed)
    means = torch.from_numpy(means_KD)
    heads = Heads.pack(partition, [means[torch.from_numpy(partition.members(c)).long()] for c in range(m)])
    names = tuple(f"identity_{i:07d}" for i in range(len(means_KD)))
    return Identifier(names, means, partition, Argmax(), NearestClass(), heads)


def _opened(identifier: Identifier, index: ClassIndex) -> Identifier:
    fitted = any(isinstance(value, torch.Tensor) for value in vars(index).values())
    made = replace(identifier, index=index) if fitted else identifier.with_index(index)
    assert made.uses_index or made.index is not None
    return made


def _clusters(size: int, before: ClassIndex | None) -> ClassIndex:
    return Clusters(size, EXACT_BELOW)


def _inverted_file(size: int, before: ClassIndex | None) -> ClassIndex:
    names = ("map_DR", "centre_LR", "cell_K")
    learned = {} if before is None else {name: getattr(before, name) for name in names}
    return InvertedFile(n_probe=8 * size, encoding="int8", dims=128, exact_below=EXACT_BELOW, **learned)


def _graph(size: int, before: ClassIndex | None) -> ClassIndex:
    graph = {} if before is None else {name: getattr(before, name) for name in ("level_K", "offset_K1", "link_E")}
    return Hnsw(ef_search=16 * size, **graph)


OUR_INDEXES = {"exact": lambda size, before: Exact(), "clusters": _clusters, "ivf": _inverted_file, "hnsw": _graph}


def _faiss_index(
    rival: str, flat: Any, means_KD: np.ndarray, n_clusters: int, unit_BD: np.ndarray, nearest_B: np.ndarray,
    agreement: float,
) -> tuple[Callable, dict[str, Any]]:  # fmt: skip
    if rival == "faiss_flat":
        facts = {"theirs_agreement": 100.0, "theirs_index_mb": means_KD.nbytes / 2**20}
        return lambda rows: flat.search(rows, 1), facts
    dim, kept = means_KD.shape[1], []

    def build() -> Any:
        index: faiss.Index
        if rival == "faiss_hnsw":
            index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        else:
            quantizer = faiss.IndexFlatIP(dim)
            index = faiss.IndexIVFFlat(quantizer, dim, n_clusters, faiss.METRIC_INNER_PRODUCT)
            kept.append(quantizer)  # or Python frees it while the index still points at it
            index.train(means_KD)
        index.add(means_KD)
        return index

    index, peak = with_peak_memory(build)
    for size in STEPS:
        if rival == "faiss_hnsw":
            index.hnsw.efSearch = 16 * size
        else:
            index.nprobe = size
        alike = 100 * float((index.search(unit_BD, 1)[1][:, 0] == nearest_B).mean())
        if alike >= agreement or (rival == "faiss_ivf" and size >= n_clusters):
            break
    return lambda rows, kept=kept: index.search(rows, 1), {
        "theirs_looked_into": size, "theirs_agreement": alike, "theirs_index_mb": peak,
    }  # fmt: skip


def _milliseconds(ask: Callable, rows_BD: np.ndarray, batch: int) -> float:
    if batch == 1:
        return 1e3 * float(np.median(_single_seconds(ask, rows_BD[:SINGLE_PROBES])))
    many = np.resize(rows_BD, (batch, rows_BD.shape[1]))
    return 1e3 * seconds(lambda: ask(many), at_least=FILL_SECONDS) / batch


def _single_seconds(ask: Callable, rows_BD: np.ndarray) -> list[float]:
    return [seconds(partial(ask, rows_BD[i : i + 1])) for i in range(len(rows_BD))]
