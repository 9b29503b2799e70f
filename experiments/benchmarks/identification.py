# SPDX-License-Identifier: MIT
"""Naming single probes and batches, against faiss. Axes: K identities, M clusters, B probes, D dimension."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from datamodules.class_means import normalise_rows
from datamodules.errors import InputError
from datamodules.partitioners.kmeans import KMeansPartitioner
from experiments.benchmarks.config import Bench, Group
from experiments.benchmarks.measurement import measure_in_turn, record, seconds, with_peak_memory
from experiments.benchmarks.synthetic_data import class_means_of, probes_of
from experiments.enrolment.original import open_original
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.identifier import Identifier
from lightning_modules.indexes.base import ClassIndex
from lightning_modules.indexes.ivf import CANDIDATES, InvertedFile, in_order
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # of what an index looks into, tried in order
WIDE_SHARES = (0.125, 0.25, 0.5, 1.0)  # of the cells that a fall-back looks into
RIVALS = ("faiss_flat", "faiss_ivf")
EXACT_BELOW = 0.5  # 5 of 100 synthetic probes have no cosine above it: strangers and bad photographs
FILL_SECONDS = 0.5
SINGLE_PROBES = 200

Ask = Callable[[np.ndarray], Any]


@dataclass
class IdentificationBenchmark(Group):
    """Milliseconds per probe at equal agreement with exact search; for single probes the mean.

    Ours is `Identifier.identify` with `index=ivf`, from probe to name. faiss searches the class means for the nearest
    one. `faiss_ivf` has our cells, kind of codes and rule of the fall-back; ours are codes of the rows of the heads.
    Every index looks into as little as gives the agreement asked for: ours of its answers with those of exact routing,
    faiss's of its nearest class mean with that of IndexFlatIP. So does the fall-back.

    Args:
        n_identities: sizes of synthetic sets, whose heads are class means perturbed at random.
        identifiers: folders of trained Identifiers; the probes are test samples of their data.
        batches: values of B.
        head_noise: length of the random vector that a row of a head differs by. 0.3 is a median cosine of 0.958 with
            the class mean, that of heads after three epochs with two synthetic images a class (Han: 0.978); 0 takes
            the class means.
        agreement: share of the probes that must be answered alike, in percent.
        per_cluster: identities per cluster; M is K divided by it.
        n_probes: probes on which agreement is measured.
    """

    n_identities: list[int]
    identifiers: Sequence[str] = ()
    batches: Sequence[int] = (1, 1024)
    head_noise: float = 0.3
    against: Sequence[str] = RIVALS
    agreement: float = 99.5
    per_cluster: int = 2500
    n_probes: int = 2000
    repeats: int = 5
    dim: int = 512

    def __post_init__(self):
        if wrong := set(self.against) - set(RIVALS):
            raise InputError(f"{sorted(wrong)}", f"of {RIVALS}", "correct the suite")

    def measure(self, bench: Bench) -> Iterator[dict[str, Any]]:
        """See `Group.measure`."""
        seed = bench.cfg.seed
        for k in self.n_identities:
            means_KD, flat = viewed(class_means_of(k, self.dim, seed))
            identifier = identifier_of(means_KD, max(1, k // self.per_cluster), seed, self.head_noise)
            heads = f"class means, perturbed at random by {self.head_noise}"
            yield from self._people(identifier, flat, *probes_of(k, self.dim, seed, min(self.n_probes, k)), heads)
        for path in self.identifiers:
            trained = replace(Identifier.load(path), index=None, threshold=None)
            _, flat = viewed(trained.class_means_KD.numpy())
            yield from self._people(trained, flat, *probes_of_data(path, trained, self.n_probes, seed), "trained", path)

    def _people(
        self, identifier: Identifier, flat: Any, probes_BD: np.ndarray, who_B: np.ndarray, heads: str,
        data: str = "synthetic",
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        k, unit_BD = len(identifier.identities), normalise_rows(probes_BD)
        nearest_B = flat.search(unit_BD, 1)[1][:, 0]
        exact_B = identifier.identify(probes_BD).index
        found, their = identifier, {}
        for batch in self.batches:
            found, answer_B, facts = self._smallest(found, probes_BD, exact_B, batch)
            facts |= {
                "data": Path(data).name, "heads": heads, "exact_below": EXACT_BELOW,
                "accuracy": 100 * float((answer_B == who_B).mean()),
                "theirs_accuracy": 100 * float((nearest_B == who_B).mean()),
                "agreement": 100 * float((answer_B == exact_B).mean()),
                "clusters": identifier.partition.n_clusters,
            }  # fmt: skip
            for baseline in self.against:
                if baseline not in their:
                    their[baseline] = self._baseline(baseline, found, flat, unit_BD, nearest_B)
                ask, more = their[baseline]
                yield self._pair(k, batch, baseline, found.identify, ask, probes_BD, unit_BD, {**facts, **more})

    def _smallest(
        self, identifier: Identifier, probes_BD: np.ndarray, exact_B: np.ndarray, batch: int
    ) -> tuple[Identifier, np.ndarray, dict[str, Any]]:
        index, parts = identifier.index, np.array_split(probes_BD, math.ceil(len(probes_BD) / batch))
        for share, size in _settings(len(identifier.identities), batch > 1):
            opened, peak = with_peak_memory(partial(_opened, identifier, _inverted_file(size, share, index)))
            index = opened.index
            answer_B = np.concatenate([opened.identify(part).index for part in parts])
            if 100 * (answer_B == exact_B).mean() >= self.agreement:
                break
        return opened, answer_B, {"looked_into": size, "wide_share": share, "index_mb": peak}

    def _baseline(
        self, baseline: str, ours: Identifier, flat: Any, unit_BD: np.ndarray, nearest_B: np.ndarray
    ) -> tuple[Ask, dict[str, Any]]:
        if baseline == "faiss_flat":
            facts = {"theirs_agreement": 100.0, "theirs_index_mb": flat.ntotal * flat.d * 4 / 2**20}
            return lambda rows: flat.search(rows, 1), facts
        search, peak = with_peak_memory(partial(bare_lists, ours, flat))
        for share, size in _settings(flat.ntotal):  # whatever the batch, faiss searches lists
            alike = 100 * float((search(unit_BD, size, share) == nearest_B).mean())
            if alike >= self.agreement:
                break
        facts = {
            "theirs_looked_into": size,
            "theirs_wide_share": share,
            "theirs_agreement": alike,
            "theirs_index_mb": peak,
        }
        return lambda rows: search(rows, size, share), facts

    def _pair(
        self, k: int, batch: int, baseline: str, ours: Ask, their: Ask, probes_BD: np.ndarray, unit_BD: np.ndarray,
        facts: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        singles: dict[str, list[float]] = {"ours": [], "theirs": []}
        asked = {"ours": (ours, probes_BD), "theirs": (their, unit_BD)}
        sides = {name: partial(_milliseconds, *asked[name], batch, singles[name]) for name in singles}
        for name, side in sides.items():
            side()  # the first call opens indexes and touches memory
            singles[name].clear()
        taken = measure_in_turn(sides, self.repeats)
        if batch == 1:
            for name, values in singles.items():
                median, high = np.percentile(values, (50, 99)).tolist()
                facts |= {f"{name}_median_ms": median, f"{name}_p99_ms": high}
        return record("identify", k, batch, "highest", baseline, "ms", taken["ours"], taken["theirs"], **facts)


def viewed(means_KD: np.ndarray) -> tuple[np.ndarray, Any]:
    """faiss's own copy of (K, D) float32 class means, and its flat index: one of several gigabytes is enough."""
    flat = faiss.IndexFlatIP(means_KD.shape[1])
    flat.add(means_KD)
    return faiss.rev_swig_ptr(flat.get_xb(), means_KD.size).reshape(means_KD.shape), flat


def probes_of_data(path: str, trained: Identifier, n_probes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many test samples of the data an identifier was trained on, (B, D) float32 and (B,) identities.

    Raises InputError: the data are not there any more.
    """
    original = open_original(trained)
    if original.missing:
        raise InputError(f"{path}: {original.missing}", "an identifier whose data are there", "train it again")
    test = original.of(original.splits.test, trained)
    drawn_B = np.random.default_rng([seed, 5]).permutation(len(test))[:n_probes]
    return np.asarray(original.embedding_set.embeddings[test.rows[drawn_B]], np.float32), test.labels[drawn_B]


def _settings(k: int, products: bool = False) -> list[tuple[float, int]]:
    # As 5 of 100 probes fall back, in the order of the cells of 4 sqrt(K) that are looked into on average. To look into
    # all of them by matrix products costs as much as a fifth in lists.
    found = [(share, size) for share in WIDE_SHARES for size in STEPS]
    cost = {share: 0.2 if products and share == 1 else share for share in WIDE_SHARES}
    return sorted(found, key=lambda one: one[1] + 0.05 * cost[one[0]] * 4 * math.sqrt(k))


def identifier_of(means_KD: np.ndarray, m: int, seed: int, head_noise: float = 0.0) -> Identifier:
    """An identifier of (K, D) float32 unit class means whose heads are these plus random vectors of a length."""
    partition = KMeansPartitioner(max_iter=10, faiss_above=0).fit(means_KD, m, seed)
    random, scale = np.random.default_rng([seed, 7]), np.float32(head_noise / means_KD.shape[1] ** 0.5)

    def rows(cluster: int) -> torch.Tensor:
        rows_CD = means_KD[partition.members(cluster)]
        noise_CD = random.standard_normal(rows_CD.shape, np.float32)
        return torch.from_numpy(normalise_rows(rows_CD + scale * noise_CD))

    heads = Heads.pack(partition, map(rows, range(m)))
    names = tuple(f"identity_{i:07d}" for i in range(len(means_KD)))
    return Identifier(names, torch.from_numpy(means_KD), partition, Argmax(), NearestClass(), heads)


def _opened(identifier: Identifier, index: ClassIndex) -> Identifier:
    made = replace(identifier, index=index) if _learned(index) else identifier.with_index(index)
    assert made.uses_index  # opens it, so that its memory is measured
    return made


def _learned(index: ClassIndex | None) -> dict[str, Any]:
    found = {} if index is None else vars(index)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _inverted_file(size: int, share: float, before: ClassIndex | None) -> ClassIndex:
    coded: dict[str, Any] = {"encoding": "int8", "dims": 128}
    return InvertedFile(n_probe=size, **coded, exact_below=EXACT_BELOW, wide_share=share, **_learned(before))


def bare_lists(ours: Identifier, flat: Any) -> Callable[[np.ndarray, int, float], np.ndarray]:
    """faiss alone with the lists of our index.

    (B, D) unit probes, the cells to look into and the share of the cells of a fall-back give (B,) identities.
    """
    index: Any = ours.index
    lists, looks = index.lists(in_order(ours.class_means_KD.numpy()))
    whole, n_cells = faiss.IndexRefine(lists, flat), len(index.centre_LR)

    @functools.cache
    def refined(cells: int) -> Any:
        return faiss.IndexRefineSearchParameters(k_factor=CANDIDATES, base_index_params=looks(cells))  # type: ignore[call-arg]

    def search(rows_BD: np.ndarray, cells: int, share: float = 1.0) -> np.ndarray:
        cosine_B1, identity_B1 = whole.search(rows_BD, 1, params=refined(cells))
        poor_B = cosine_B1[:, 0] < EXACT_BELOW
        if poor_B.any():
            wide = refined(math.ceil(share * n_cells))
            identity_B1[poor_B] = whole.search(rows_BD[poor_B], 1, params=wide)[1]
        return identity_B1[:, 0]

    return search


def _milliseconds(ask: Ask, rows_BD: np.ndarray, batch: int, singles: list[float]) -> float:
    if batch == 1:
        taken = [1e3 * seconds(partial(ask, rows_BD[i : i + 1])) for i in range(min(SINGLE_PROBES, len(rows_BD)))]
        singles += taken
        return float(np.mean(taken))
    many = np.resize(rows_BD, (batch, rows_BD.shape[1]))
    return 1e3 * seconds(lambda: ask(many), at_least=FILL_SECONDS) / batch
