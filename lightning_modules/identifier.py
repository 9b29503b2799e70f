# SPDX-License-Identifier: MIT
"""Identifier: class means, partition, trained heads, router and decision in one object and one folder.

Axes: B probes, K identities, M clusters, D embedding dimension, S rows of all heads.
"""

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.files import atomic_folder, read_json, sha256, write_json
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.indexes import base as indexes
from lightning_modules.kernels import matmul_precision
from lightning_modules.routers.base import Router
from lightning_modules.scores import Heads, ProbeScores, cluster_centres

FORMAT = "clusterface-identifier-1"
PROBES_AT_ONCE = 4096


@dataclass(frozen=True)
class Identification:
    """Answers for B probes.

    Attributes:
        index: (B,) int64 identity in [0, K), -1 where the score is under the threshold.
        identity: B names, "unknown" where the index is -1.
        score: (B,) float32, higher is more certain.
        cluster: (B,) int64 cluster in which the answer was found.
    """

    index: np.ndarray
    identity: tuple[str, ...]
    score: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class Identifier:
    """Everything that is needed to name a probe.

    Attributes:
        identities: K names.
        class_means_KD: (K, D) float32 unit class means.
        partition: who belongs to which cluster.
        decision: the final decision.
        router: the cluster finder; None where there is one cluster, or where the decision does not need one.
        heads: trained rows; None where the decision needs none.
        threshold: scores below it become unknown; None accepts every answer.
        provenance: facts about how it was trained, as JSON values.
        index: how the nearest class means are found; None looks at all of them.
    """

    identities: tuple[str, ...]
    class_means_KD: Tensor
    partition: Partition
    decision: Decision
    router: Router | None = None
    heads: Heads | None = None
    threshold: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    index: indexes.ClassIndex | None = None

    def __post_init__(self):
        cure = "save the identifier again with experiments.train"
        if self.router is None and self.partition.n_clusters > 1 and self.decision.needs_route:
            raise InputError(f"no router for {self.partition.n_clusters} clusters", "a router", cure)
        router_needs = self.router is not None and self.router.needs_heads and self.partition.n_clusters > 1
        if self.heads is None and (self.decision.needs_heads or router_needs):
            raise InputError("no trained heads", "heads, which router or decision need", cure)
        for part in (self.router, self.decision):
            if part is not None and not part.fits(self.partition, self.dim):
                got = f"{type(part).__name__} fitted to other identities than these {self.partition.n_identities}"
                raise InputError(got, "what was fitted with them", cure)
        finite = isinstance(self.threshold, (int, float)) and math.isfinite(self.threshold)
        if self.threshold is not None and not finite:
            raise InputError(f"threshold = {self.threshold!r}", "a finite number or None", cure)

    @property
    def dim(self) -> int:
        """D, the embedding dimension."""
        return self.class_means_KD.shape[1]

    def scores(self, probes_BD: Tensor) -> ProbeScores:
        """The scores of probes (B, D), of any length, against everything this identifier holds.

        Args:
            probes_BD: of any length; a row of zeros has no direction.
        """
        scores = ProbeScores(
            probes_BD, self.class_means_KD, self.partition, self.heads, lambda: self._centres_MD, self._search
        )
        scores.cluster_of_K = self._cluster_of_K  # made once: K numbers are much beside a search for one probe
        return scores

    def with_index(self, index: indexes.ClassIndex | None) -> "Identifier":
        """This identifier with an index over its class means, built here; None takes the index away."""
        return replace(self, index=index and index.fit(self.class_means_KD, self.partition))

    @property
    def uses_index(self) -> bool:
        """Whether the nearest class means are found without looking at all of them."""
        return self._search is not None

    @cached_property
    def _search(self) -> indexes.Search | None:
        return self.index.open(self.class_means_KD, self.partition) if self.index else None

    @cached_property
    def _cluster_of_K(self) -> Tensor:
        return torch.from_numpy(self.partition.cluster_of).long().to(self.class_means_KD.device)

    @cached_property
    def _centres_MD(self) -> Tensor:
        with matmul_precision("highest"):
            return cluster_centres(self.class_means_KD, self.partition)

    def route(self, scores: ProbeScores) -> Tensor:
        """Clusters of each probe: (B, P) int64, best first, -1 where none.

        Args:
            scores: of the probes, from `scores`.
        """
        if self.router is None or self.partition.n_clusters == 1:
            return torch.zeros((len(scores), 1), dtype=torch.long, device=scores.probes_BD.device)
        return self.router.route(scores)

    @property
    def needs_fit(self) -> bool:
        """Whether router or decision have parameters that `fitted` finds."""
        return self.decision.needs_fit or (self.router is not None and self.router.needs_fit)

    def fitted(self, samples: TrainingSamples, val_BD: Tensor, truth_B: Tensor, seed: int) -> "Identifier":
        """This identifier with the fitted parameters of its router, and then of its decision.

        Args:
            samples: the training samples.
            val_BD: (B, D) validation probes of any length; may be none.
            truth_B: (B,) int64 their identity.
            seed: of everything random.
        """
        made = self
        with matmul_precision("highest"):
            if made.router is not None and made.router.needs_fit:
                router = made.router.fit(self.class_means_KD, self.partition, samples, seed)
                made = replace(made, router=router)
            if made.decision.needs_fit:
                scores = made.scores(val_BD)
                clusters_BP = made.route(scores) if made.decision.needs_route else None
                made = replace(made, decision=made.decision.fit(scores, clusters_BP, truth_B, samples))
        return made

    @torch.inference_mode()
    def decide(self, probes_BD: Tensor) -> Decided:
        """Names probes, without threshold.

        Args:
            probes_BD: (B, D) embeddings of any length.

        Returns:
            Answers as tensors. Products are float32 whatever precision training used.
        """
        with matmul_precision("highest"):
            scores = self.scores(probes_BD)
            clusters_BP = self.route(scores) if self.decision.needs_route else None
            return self.decision.decide(scores, clusters_BP)

    @torch.inference_mode()
    def rank(self, probes_BD: Tensor, most: int) -> tuple[Ranked, Tensor | None]:
        """Candidates beyond the answer.

        Args:
            probes_BD: (B, D) embeddings of any length.
            most: candidates at most.

        Returns:
            The candidates, and the (B, P) clusters looked into; None where the decision looks at all identities.
        """
        with matmul_precision("highest"):
            scores = self.scores(probes_BD)
            clusters_BP = self.route(scores) if self.decision.needs_route else None
            return self.decision.rank(scores, clusters_BP, most), clusters_BP

    def identify(self, embeddings: np.ndarray | Tensor) -> Identification:
        """Names probes.

        Args:
            embeddings: (B, D) floating point, of any length; memory-mapped arrays are read in blocks.

        Raises:
            InputError: another dimension, NaN, infinity or zero rows.
        """
        parts = [self.decide(block) for block in self._blocks(embeddings)]
        if not parts:
            empty = np.zeros(0, np.int64)
            return Identification(empty, (), np.zeros(0, np.float32), empty)
        index, score, cluster = (
            torch.cat([getattr(part, name) for part in parts]).cpu().numpy()
            for name in ("identity_B", "score_B", "cluster_B")
        )
        if self.threshold is not None:
            index = np.where(score < self.threshold, -1, index)
        names = tuple(self.identities[i] if i >= 0 else "unknown" for i in index)
        return Identification(index, names, score, cluster)

    def _blocks(self, embeddings: np.ndarray | Tensor) -> Iterator[Tensor]:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise InputError(
                f"embeddings of shape {tuple(embeddings.shape)}",
                f"(probes, {self.dim}), as the identifier was trained",
                "extract the probes with the extractor of the enrolled images",
            )
        for start in range(0, len(embeddings), PROBES_AT_ONCE):
            rows = embeddings[start : start + PROBES_AT_ONCE]
            rows = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows, dtype=np.float32))
            rows = rows.to(self.class_means_KD.device, torch.float32)
            bad = ~(torch.isfinite(rows).all(1) & rows.any(1))
            if bad.any():
                first = start + int(bad.nonzero()[0])
                raise InputError(
                    f"{int(bad.sum())} probes that are not finite or all zero (first: row {first})",
                    "finite vectors with a direction",
                    "leave those rows out",
                )
            yield rows

    def save(self, path: Path | str) -> None:
        """Writes identifier.safetensors and identifier.json into a new folder, whole or not at all.

        Args:
            path: of the folder; one that exists is replaced.
        """
        tensors = {
            "class_means": self.class_means_KD.cpu().contiguous(),
            "cluster_of": torch.from_numpy(self.partition.cluster_of.copy()),
        }
        if self.partition.overlapping:
            tensors["extra_memberships"] = torch.from_numpy(self.partition.extra.copy())
        if self.heads is not None:
            tensors["head_rows"] = self.heads.rows_SD.cpu().contiguous()
        tensors |= indexes.tensors_of(self.index)
        for name, part in (("router", self.router), ("decision", self.decision)):
            tensors |= {f"{name}.{key}": value.cpu().contiguous() for key, value in _tensors(part).items()}
        with atomic_folder(path) as folder:
            safetensors.torch.save_file(tensors, folder / "identifier.safetensors")
            content = {
                "format": FORMAT,
                "identities": list(self.identities),
                "n_clusters": self.partition.n_clusters,
                "partition": self.partition.provenance,
                "router": _describe(self.router),
                "decision": _describe(self.decision),
                "index": indexes.describe(self.index),
                "threshold": self.threshold,
                "sha256": sha256(folder / "identifier.safetensors"),
                "versions": {"torch": torch.__version__, "numpy": np.__version__},
                "provenance": self.provenance,
            }
            write_json(folder / "identifier.json", content)

    @classmethod
    def load(cls, path: Path | str, device: str | torch.device = "cpu") -> "Identifier":
        """Reads a folder that `save` wrote; needs no config.

        Args:
            path: the folder.
            device: where class means and heads shall live.

        Raises:
            InputError: a missing, truncated, altered or foreign file.
        """
        folder = Path(path)
        cure = "save the identifier again with experiments.train"
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"device {str(device)!r} ({reason})", "a device of this machine", "use cpu or cuda"
            ) from None
        if not folder.is_dir():
            raise InputError(f"no folder {folder}", "an Identifier folder", "check the path")
        content = read_json(folder / "identifier.json", cure)
        if content.get("format") != FORMAT:
            raise InputError(f"{folder} of format {content.get('format')!r}", FORMAT, cure)
        weights = folder / "identifier.safetensors"
        if not weights.is_file():
            raise InputError(f"no file {weights}", "the weights beside identifier.json", cure)
        if sha256(weights) != content.get("sha256"):
            raise InputError(f"{weights}, truncated or altered", "the content identifier.json was written for", cure)
        try:
            tensors = safetensors.torch.load_file(weights, device=str(device))
            partition = Partition(
                tensors["cluster_of"].cpu().numpy(),
                content["n_clusters"],
                tensors["extra_memberships"].cpu().numpy() if "extra_memberships" in tensors else np.zeros((0, 2)),
                content["partition"],
            )
            identities, means = tuple(content["identities"]), tensors["class_means"]
            router = _restore(content["router"], Router, "lightning_modules.routers.", _of(tensors, "router"))
            decision = _restore(content["decision"], Decision, "lightning_modules.decisions.", _of(tensors, "decision"))
            index, threshold = indexes.restore(content.get("index"), tensors), content["threshold"]
        except InputError:
            raise
        except Exception as error:  # safetensors, KeyError, TypeError: whatever a foreign file provokes
            raise InputError(f"{folder}, unreadable ({type(error).__name__}: {error})", FORMAT, cure) from None
        if len(identities) != len(means) or len(means) != partition.n_identities or decision is None:
            raise InputError(
                f"{folder}: {len(identities)} names, {len(means)} class means, partition of {partition.n_identities}",
                "equal numbers",
                cure,
            )
        heads = None
        if "head_rows" in tensors:
            rows, sizes = tensors["head_rows"], partition.sizes()
            per_class = max(1, len(rows) // int(sizes.sum()))
            if rows.shape != (per_class * sizes.sum(), means.shape[1]):
                raise InputError(f"{folder}: head rows {tuple(rows.shape)}", f"({sizes.sum()}, {means.shape[1]})", cure)
            heads = Heads.pack(partition, list(torch.split(rows, (per_class * sizes).tolist())))
        facts = content.get("provenance", {})
        return cls(identities, means, partition, decision, router, heads, threshold, facts, index)


def _describe(part: Router | Decision | None) -> dict[str, Any] | None:
    if part is None:
        return None
    arguments = {key: value for key, value in _arguments(part).items() if not isinstance(value, Tensor)}
    return {"class": f"{type(part).__module__}.{type(part).__qualname__}", "arguments": arguments}


def _arguments(part: Router | Decision | None) -> dict[str, Any]:
    # A leading underscore marks what is computed from the arguments and kept.
    return {} if part is None else {key: value for key, value in vars(part).items() if not key.startswith("_")}


def _tensors(part: Router | Decision | None) -> dict[str, Tensor]:
    return {key: value for key, value in _arguments(part).items() if isinstance(value, Tensor)}


def _of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}


def _restore(description: dict[str, Any] | None, base: type, prefix: str, tensors: dict[str, Tensor]) -> Any:
    # Only classes of our own packages: a foreign JSON must not choose what is imported.
    if description is None:
        return None
    module, _, name = description["class"].rpartition(".")
    if not module.startswith(prefix):
        raise InputError(f"class {description['class']!r}", f"one of {prefix}*", "use a folder that this project wrote")
    found = getattr(importlib.import_module(module), name)
    if not issubclass(found, base):
        raise InputError(
            f"class {description['class']!r}", f"a {base.__name__}", "use a folder that this project wrote"
        )
    return found(**description["arguments"], **tensors)
