# SPDX-License-Identifier: MIT
"""Identifier: all that names a probe. Axes: B probes, K identities, M clusters, D dimension, S rows of all heads."""

import logging
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from datamodules.embedding_set import UNKNOWN
from datamodules.errors import InputError
from datamodules.files import atomic_folder, read_json, sha256, write_json
from datamodules.lazy import short_repr
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from lightning_modules import saved_parts
from lightning_modules.decisions.base import Decided, Decision, Ranked
from lightning_modules.heads.base import Head
from lightning_modules.indexes.base import ClassIndex, IndexSearch
from lightning_modules.kernels import matmul_precision
from lightning_modules.quick_answers import QuickAnswers, near_class_means, unit_rows
from lightning_modules.routers.base import Router
from lightning_modules.scores import Heads, ProbeScores, cluster_centres

FORMAT = "clusterface-identifier-1"
FILES = ("identifier.json", "identifier.safetensors")
HUB_FILES = ("config.json", "model.safetensors")  # the same as Hugging Face's hub names them
PROBES_AT_ONCE = 4096
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identification:
    """Answers for B probes."""

    index: np.ndarray  # (B,) int64 identity in [0, K), -1 if the score is under the threshold
    identity: tuple[str, ...]  # B names, the word for unknown if the index is -1
    score: np.ndarray  # (B,) float32, higher is more certain
    cluster: np.ndarray  # (B,) int64 cluster in which the answer was found

    __repr__ = short_repr


@dataclass(frozen=True)
class Identifier:
    """Everything that is needed to name a probe."""

    identities: tuple[str, ...]
    class_means_KD: Tensor  # float32, of unit length
    partition: Partition
    decision: Decision
    router: Router | None = None  # None if there is one cluster, or if the decision does not need one
    heads: Heads | None = None  # None if the decision needs none
    threshold: float | None = None  # scores below it become unknown; None accepts every answer
    provenance: dict[str, Any] = field(default_factory=dict)  # how it was trained, as JSON values
    index: ClassIndex | None = None  # how the nearest class means are found; None looks at all of them
    unknown: str = UNKNOWN  # the answer for people who are not enrolled

    __repr__ = short_repr

    def __post_init__(self):
        cure = "save the identifier again with experiments.train"
        if self.router is None and self.partition.n_clusters > 1 and self.decision.needs_route:
            raise InputError(f"no router for {self.partition.n_clusters} clusters", "a router", cure)
        router_needs = self.router is not None and self.router.needs_heads and self.partition.n_clusters > 1
        if self.heads is None and (self.decision.needs_heads or router_needs):
            raise InputError("no trained heads", "heads, which router or decision need", cure)
        if not self.decision.fits(self.partition, self.dim):
            got = f"{type(self.decision).__name__} fitted to other identities than these {self.partition.n_identities}"
            raise InputError(got, "what was fitted with them", cure)
        if self.unknown in self.identities:
            got = f"a person called {self.unknown!r}, the word for people who are not enrolled"
            raise InputError(got, "a word that is nobody's name", "choose another with unknown=")
        finite = isinstance(self.threshold, (int, float)) and math.isfinite(self.threshold)
        if self.threshold is not None and not finite:
            raise InputError(f"threshold = {self.threshold!r}", "a finite number or None", cure)

    @cached_property  # a tensor takes longer to tell its shape than all other checks of a probe
    def dim(self) -> int:
        """D, the embedding dimension."""
        return self.class_means_KD.shape[1]

    def scores(self, probes_BD: Tensor) -> ProbeScores:
        """The scores of probes (B, D) against everything this identifier holds; they may have any length but zero."""
        given = probes_BD, self.class_means_KD, self.partition, self.heads
        scores = ProbeScores(*given, lambda: self._centres_MD, self._search)
        scores.cluster_of_K = self._cluster_of_K  # made once: K numbers are much beside a search for one probe
        return scores

    def with_index(self, index: ClassIndex | None) -> "Identifier":
        """This identifier with an index over its class means, built here; None takes the index away."""
        return replace(self, index=index and index.fit(self.class_means_KD))

    @property
    def uses_index(self) -> bool:
        """Whether a probe is answered without looking at all class means."""
        return (self._quick or self._search) is not None

    @cached_property
    def _search(self) -> IndexSearch | None:
        return self.index.open(self.class_means_KD) if self.index else None

    @cached_property
    def _quick(self) -> QuickAnswers | None:
        routed = not self.decision.needs_route or (self.router is not None and self.router.quick)
        if self.index is None or not (self.decision.quick and routed) or self.class_means_KD.device.type != "cpu":
            return None
        heads = self.heads if self.decision.needs_heads else None
        if heads and (heads.rows_SD is None or heads.rows_per_class > 1 or self.partition.overlapping):
            return None
        if heads and not near_class_means(heads, self.class_means_KD):
            return None
        rows = heads.by_identity() if heads else None
        search = self.index.open(self.class_means_KD, rows) if rows else self._search
        return QuickAnswers(search, self.partition, rows) if search else None

    @cached_property
    def _cluster_of_K(self) -> Tensor:
        return torch.from_numpy(self.partition.cluster_of).long().to(self.class_means_KD.device)

    @cached_property
    def _centres_MD(self) -> Tensor:
        with matmul_precision("highest"):
            return cluster_centres(self.class_means_KD, self.partition)

    def route(self, scores: ProbeScores) -> Tensor:
        """Clusters of each probe: (B, P) int64, best first, -1 for none."""
        if self.router is None or self.partition.n_clusters == 1:
            return torch.zeros((len(scores), 1), dtype=torch.long, device=scores.probes_BD.device)
        return self.router.route(scores)

    def fitted(self, samples: TrainingSamples, val_BD: Tensor, truth_B: Tensor) -> "Identifier":
        """This identifier with the fitted parameters of its decision; see `Decision.fit`.

        Probes (B, D) have any length, and there may be none; `truth_B` is int64.
        """
        with matmul_precision("highest"):
            scores = self.scores(val_BD)
            clusters_BP = self.route(scores) if self.decision.needs_route else None
            return replace(self, decision=self.decision.fit(scores, clusters_BP, truth_B, samples))

    @torch.inference_mode()
    def decide(self, probes_BD: Tensor) -> Decided:
        """Names probes (B, D) of any length, without threshold, in float32 whatever precision training used."""
        if self._quick and len(probes_BD):
            return Decided(*map(torch.from_numpy, self._quick(unit_rows(probes_BD.float().contiguous().numpy())[0])))
        return self._decided(self.scores(probes_BD))

    def _decided(self, scores: ProbeScores) -> Decided:
        with matmul_precision("highest"):
            clusters_BP = self.route(scores) if self.decision.needs_route else None
            return self.decision.decide(scores, clusters_BP)

    @torch.inference_mode()
    def rank(self, probes_BD: Tensor, most: int) -> tuple[Ranked, Tensor | None]:
        """At most `most` candidates of probes (B, D) of any length, and the (B, P) clusters or None, if none matter."""
        with matmul_precision("highest"):
            scores = self.scores(probes_BD)
            clusters_BP = self.route(scores) if self.decision.needs_route else None
            return self.decision.rank(scores, clusters_BP, most), clusters_BP

    def identify(self, embeddings: np.ndarray | Tensor) -> Identification:
        """Names probes (B, D) of any length. One with NaN or infinity, or of zeros, is unknown: score NaN, cluster -1.

        Memory-mapped arrays are read in blocks. Raises InputError: another dimension.
        """
        self.check_shape(embeddings)
        starts = range(0, max(1, len(embeddings)), PROBES_AT_ONCE)
        parts = [self._answers(embeddings[start : start + PROBES_AT_ONCE]) for start in starts]
        index, score, cluster = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        names = tuple(self.identities[i] if i >= 0 else self.unknown for i in index.tolist())
        return Identification(index, names, score, cluster)

    def _answers(self, rows: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._quick and len(rows):
            given = rows.detach().cpu().float().numpy() if isinstance(rows, Tensor) else rows
            unit_BD, lost = unit_rows(np.ascontiguousarray(given, np.float32))
            index, score, cluster = self._quick(unit_BD)
        else:
            index, score, cluster, lost = self._thorough(rows)
        if self.threshold is not None:
            index = np.where(score < self.threshold, -1, index)
        if lost is not None and lost.any():
            index, score, cluster = index.copy(), score.copy(), cluster.copy()
            index[lost], score[lost], cluster[lost] = -1, np.nan, -1
        return index, score, cluster

    @torch.inference_mode()
    def _thorough(self, rows: np.ndarray | Tensor) -> tuple[np.ndarray, ...]:
        rows = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows, dtype=np.float32))
        scores = self.scores(rows.to(self.class_means_KD.device, torch.float32))
        if not len(rows):
            decided = Decided(*torch.zeros(3, 0, dtype=torch.long))
        else:
            decided = self._decided(scores)
        found = decided.identity_B, decided.score_B, decided.cluster_B, ~scores.probes_BD.any(1)
        return tuple(part.cpu().numpy() for part in found)

    def check_shape(self, embeddings: np.ndarray | Tensor) -> None:
        """Raises InputError if these are no embeddings of dimension D."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            cure = "extract the probes with the extractor of the enrolled images"
            got = f"embeddings of shape {tuple(embeddings.shape)}"
            raise InputError(got, f"(probes, {self.dim}), as the identifier was trained", cure)

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Writes identifier.safetensors and identifier.json into a folder, whole or not at all.

        Args:
            overwrite: whether an Identifier in `path` is replaced, in one step.

        Raises:
            InputError: a folder that exists, or anything but an Identifier that would be overwritten; a router,
                decision, index or head of a class that `load` could never import.
        """
        if overwrite:
            check_replaceable(path)
        tensors, content, packages = self.state()
        if packages:
            logger.warning("%s: only Identifier.load(..., allow=%s) will load it", path, packages)
        with atomic_folder(path, overwrite) as folder:
            safetensors.torch.save_file(tensors, folder / "identifier.safetensors")
            write_json(folder / "identifier.json", content | {"sha256": sha256(folder / "identifier.safetensors")})

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
        """All of it as tensors on the CPU and JSON values, for `from_state`, and the packages that it must be allowed.

        Raises InputError: a class that another process could never import.
        """
        parts = {"router": Router, "decision": Decision, "index": ClassIndex}
        classes = {name: base for name, base in parts.items() if getattr(self, name) is not None}
        described = {name: saved_parts.describe(getattr(self, name)) for name in parts}
        head = self.heads.made_by if self.heads and self.heads.modules else None
        needs = [saved_parts.to_be_allowed(described[name]["class"], base) for name, base in classes.items()]
        needs += [saved_parts.to_be_allowed(head["class"], Head)] if head else []
        tensors = {"class_means": self.class_means_KD.cpu().contiguous()}
        tensors["cluster_of"] = torch.from_numpy(self.partition.cluster_of.copy())
        if self.partition.overlapping:
            tensors["extra_memberships"] = torch.from_numpy(self.partition.extra.copy())
        if self.heads is not None and self.heads.rows_SD is not None:
            tensors["head_rows"] = self.heads.rows_SD.cpu().contiguous()
        for cluster, module in enumerate(self.heads.modules if self.heads else ()):
            tensors |= {f"head.{cluster}.{name}": value.cpu() for name, value in module.state_dict().items()}
        for name in parts:
            tensors |= saved_parts.tensors_of(getattr(self, name), name)
        content = {
            "format": FORMAT,
            "identities": list(self.identities),
            "n_clusters": self.partition.n_clusters,
            "partition": self.partition.provenance,
            **described,
            "head": head,
            "threshold": self.threshold,
            "unknown": self.unknown,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "provenance": self.provenance,
        }
        return tensors, content, sorted({package for package in needs if package})

    @classmethod
    def load(cls, path: Path | str, device: str | torch.device = "cpu", allow: Collection[str] = ()) -> "Identifier":
        """Reads a folder of `save`, or of `experiments.export format=huggingface`, onto a device.

        Args:
            allow: packages or modules of your own whose routers, decisions, indexes and heads may be imported.

        Raises:
            InputError: a missing, truncated, altered or foreign file, or a class that is not allowed.
        """
        folder = Path(path)
        cure = "save the identifier again with experiments.train"
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            got = f"device {str(device)!r} ({reason})"
            raise InputError(got, "a device of this machine", "use cpu or cuda") from None
        if not folder.is_dir():
            raise InputError(f"no folder {folder}", "an Identifier folder", "check the path")
        exported = not (folder / FILES[0]).exists() and (folder / HUB_FILES[0]).exists()
        described, weights = (folder / name for name in (HUB_FILES if exported else FILES))
        content = read_json(described, cure)
        if content.get("format") != FORMAT:
            raise InputError(f"{folder} of format {content.get('format')!r}", FORMAT, cure)
        if not weights.is_file():
            raise InputError(f"no file {weights}", f"the weights beside {described.name}", cure)
        if sha256(weights) != content.get("sha256"):
            raise InputError(f"{weights}, truncated or altered", f"the content {described.name} was written for", cure)
        try:
            return cls.from_state(safetensors.torch.load_file(weights, device=str(device)), content, allow, str(folder))
        except InputError:
            raise
        except Exception as error:  # safetensors, KeyError, TypeError: whatever a foreign file provokes
            raise InputError(f"{folder}, unreadable ({type(error).__name__}: {error})", FORMAT, cure) from None

    @classmethod
    def from_state(
        cls, tensors: dict[str, Tensor], content: dict[str, Any], allow: Collection[str] = (), folder: str = "the state"
    ) -> "Identifier":
        """The identifier that `state` was taken from.

        Args:
            allow: see `load`.
            folder: where it comes from, for errors.

        Raises:
            InputError: parts that do not belong together, or a class that is not allowed.
        """
        cure = "save the identifier again with experiments.train"
        partition = Partition(
            tensors["cluster_of"].cpu().numpy(),
            content["n_clusters"],
            tensors["extra_memberships"].cpu().numpy() if "extra_memberships" in tensors else np.zeros((0, 2)),
            content["partition"],
        )
        identities, means = tuple(content["identities"]), tensors["class_means"]
        router, decision, index = (
            saved_parts.restore(content.get(name), base, saved_parts.under(tensors, name), allow)
            for name, base in (("router", Router), ("decision", Decision), ("index", ClassIndex))
        )
        threshold, unknown = content["threshold"], str(content.get("unknown", UNKNOWN))
        if len(identities) != len(means) or len(means) != partition.n_identities or decision is None:
            got = f"{len(identities)} names, {len(means)} class means, partition of {partition.n_identities}"
            raise InputError(f"{folder}: {got}", "equal numbers", cure)
        heads = None
        if "head_rows" in tensors:
            rows, sizes = tensors["head_rows"], partition.sizes()
            per_class = max(1, len(rows) // int(sizes.sum()))
            if rows.shape != (per_class * sizes.sum(), means.shape[1]):
                raise InputError(f"{folder}: head rows {tuple(rows.shape)}", f"({sizes.sum()}, {means.shape[1]})", cure)
            heads = Heads.pack(partition, list(torch.split(rows, (per_class * sizes).tolist())))
        elif content.get("head"):
            heads = Heads.pack(partition, _head_modules(content["head"], partition, tensors, allow), content["head"])
        facts = content.get("provenance", {})
        return cls(identities, means, partition, decision, router, heads, threshold, facts, index, unknown)


def check_replaceable(path: Path | str) -> None:
    """Refuses to overwrite anything but the folder of an Identifier, or an empty one."""
    path = Path(path)
    if path.exists() and not (path / "identifier.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}, which is no Identifier", "one that may be replaced, or a new folder", "check out=")


def _head_modules(
    made_by: dict[str, Any], partition: Partition, tensors: dict[str, Tensor], allow: Collection[str]
) -> list[Head]:
    kind, dim = saved_parts.known_class(made_by["class"], Head, allow), tensors["class_means"].shape[1]
    modules = []
    for cluster, size in enumerate(partition.sizes().tolist()):
        rows_CD = torch.zeros(size * made_by["arguments"].get("rows_per_class", 1), dim)
        module = kind(rows_CD, **made_by["arguments"])
        try:
            module.load_state_dict(saved_parts.under(tensors, f"head.{cluster}"), assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"head of cluster {cluster} ({reason})", made_by["class"], "save it again") from None
        modules.append(module.requires_grad_(False))
    return modules
