# SPDX-License-Identifier: MIT
"""Adds people to an Identifier and takes them out. Axes: Q new people, K identities, C classes, D dimension."""

from dataclasses import replace
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.heads.base import Head
from lightning_modules.identifier import Identifier
from lightning_modules.kernels import matmul_precision
from lightning_modules.saved_parts import describe
from lightning_modules.scores import Heads, unit_probes


def with_identities(identifier: Identifier, names: list[str], class_means_QD: Tensor) -> Identifier:
    """An identifier that knows more people, with (Q, D) floating-point class means of any length but zero.

    Each becomes the last class of the cluster to which the identifier itself sends its class mean; its class row is the
    class mean, scaled to the mean length of that cluster's rows (1 but for losses whose rows keep their length). A
    decision that is fitted must be fitted again: see `Decision.needs_fit`.

    Raises:
        InputError: a name that is enrolled or given twice, another dimension, or means that are not finite or zero.
    """
    known = set(identifier.identities)
    if repeated := [name for name in names if name in known]:
        cure = "remove them in the same command, or choose others with identities="
        raise InputError(f"{repeated[0]!r}, who is enrolled already", "people who are not", cure)
    if len(set(names)) < len(names):
        raise InputError("a name given twice", "each name once", "name each person once")
    home_Q = home_clusters(identifier, class_means_QD)  # raises if the means do not fit
    means_QD = unit_probes(class_means_QD.to(identifier.class_means_KD))
    old = identifier.partition
    partition = Partition(np.concatenate([old.cluster_of, home_Q]), old.n_clusters, old.extra, old.provenance)
    heads = identifier.heads
    if heads is not None:
        heads.linear("adding people without training")
        rows = []
        for cluster in range(partition.n_clusters):
            rows_CD = heads.rows(cluster)
            new_CD = means_QD[torch.from_numpy(home_Q == cluster)] * rows_CD.norm(dim=1).mean()
            rows.append(torch.cat([rows_CD, new_CD.repeat_interleave(heads.rows_per_class, 0)]))
        heads = Heads.pack(partition, rows)
    class_means_KD = torch.cat([identifier.class_means_KD, means_QD])
    return _with_people(identifier, (*identifier.identities, *names), class_means_KD, partition, heads)


def with_class_means(identifier: Identifier, names: list[str], class_means_QD: Tensor) -> Identifier:
    """An identifier with other class means of Q people whom it knows, of any length but zero.

    They stay in their clusters; their class rows become those of `with_identities`. Fitted parts must be fitted again.

    Raises:
        InputError: another dimension, or means that are not finite or zero.
    """
    identifier.check_shape(class_means_QD)
    unit_QD = unit_probes(class_means_QD.to(identifier.class_means_KD))
    if len(lost := (~unit_QD.any(1)).nonzero()):
        raise InputError(f"the pictures of {names[int(lost[0])]!r}, without a mean", "a direction", "look at them")
    place = {name: row for row, name in enumerate(identifier.identities)}
    people_Q = torch.tensor([place[name] for name in names], device=unit_QD.device)
    means_KD = identifier.class_means_KD.clone()
    means_KD[people_Q] = unit_QD
    heads = identifier.heads
    if heads is not None:
        heads.linear("changing people without training")
        parts = []
        for cluster in range(identifier.partition.n_clusters):
            rows_CD, identity_C = heads.rows(cluster), heads.identities(cluster).repeat_interleave(heads.rows_per_class)
            changed_C = torch.isin(identity_C, people_Q)
            new_CD = means_KD[identity_C] * rows_CD.norm(dim=1).mean()
            parts.append(torch.where(changed_C[:, None], new_CD, rows_CD))
        heads = Heads.pack(identifier.partition, parts)
    return _with_people(identifier, identifier.identities, means_KD, identifier.partition, heads)


def home_clusters(identifier: Identifier, class_means_QD: Tensor) -> np.ndarray:
    """The cluster to which an identifier sends each class mean, (Q,) int32; the nearest centre if it does not route.

    Raises InputError: another dimension, or means that are not finite or zero.
    """
    identifier.check_shape(class_means_QD)
    with torch.inference_mode(), matmul_precision("highest"):
        scores = identifier.scores(class_means_QD.to(identifier.class_means_KD))
        if len(lost := (~scores.probes_BD.any(1)).nonzero()):
            got = f"{len(lost)} class means that are not finite or all zero (first: row {int(lost[0])})"
            raise InputError(got, "finite vectors with a direction", "leave those people out")
        if identifier.router is None and identifier.partition.n_clusters > 1:
            cluster_Q = scores.centre_cosine_BM.argmax(1)
        else:
            cluster_Q = identifier.route(scores)[:, 0]
    return cluster_Q.cpu().numpy().astype(np.int32)


def without_identities(identifier: Identifier, names: list[str]) -> Identifier:
    """An identifier that no longer knows some people; a cluster that nobody is left in goes as well.

    What is fitted must be fitted again: see `Decision.needs_fit`. Raises InputError: a name not enrolled, nobody
    left.
    """
    known, leaving = set(identifier.identities), set(names)
    for name in names:
        if name not in known:
            near = ", ".join(get_close_matches(name, identifier.identities, 3))
            expected = f"one of {len(identifier.identities)} people" + (f", such as {near}" if near else "")
            raise InputError(f"{name!r}, who is not enrolled", expected, "correct the name")
    keep_K = np.array([name not in leaving for name in identifier.identities])
    if not keep_K.any():
        got = f"all {len(keep_K)} people to be removed"
        raise InputError(got, "at least one who stays", "remove the folder instead")
    old = identifier.partition
    # A cluster lives by those whose home it is; others in it have a home elsewhere.
    kept_clusters = np.unique(old.cluster_of[keep_K])
    new_cluster_M = np.full(old.n_clusters, -1)
    new_cluster_M[kept_clusters] = np.arange(len(kept_clusters))
    new_identity_K = np.cumsum(keep_K) - 1
    extra = old.extra[keep_K[old.extra[:, 0]] & (new_cluster_M[old.extra[:, 1]] >= 0)]
    extra = np.stack([new_identity_K[extra[:, 0]], new_cluster_M[extra[:, 1]]], axis=1)
    partition = Partition(new_cluster_M[old.cluster_of[keep_K]], len(kept_clusters), extra, old.provenance)
    heads = identifier.heads
    if heads is not None:
        heads.linear("removing people without training")
        stays_S = torch.from_numpy(keep_K).to(heads.identity_S.device)[heads.identity_S]
        spans = [slice(heads.starts[cluster], heads.starts[cluster + 1]) for cluster in kept_clusters]
        heads = Heads.pack(partition, [heads.rows_SD[span][stays_S[span]] for span in spans])
    kept = torch.from_numpy(keep_K).to(identifier.class_means_KD.device)
    staying = tuple(name for name in identifier.identities if name not in leaving)
    return _with_people(identifier, staying, identifier.class_means_KD[kept], partition, heads)


def _with_people(
    identifier: Identifier, names: tuple[str, ...], means_KD: Tensor, partition: Partition, heads: Heads | None
) -> Identifier:
    bare = unfitted(identifier)
    made = replace(bare, identities=names, class_means_KD=means_KD, partition=partition, heads=heads)
    return made.with_index(identifier.index)


def with_head(identifier: Identifier, cluster: int, head: Head) -> Identifier:
    """An identifier whose head of one cluster is another."""
    heads, clusters = identifier.heads, range(identifier.partition.n_clusters)
    parts: list[Tensor | Head] = list(heads.modules) or [heads.rows(c) for c in clusters]
    parts[cluster] = head
    return replace(identifier, heads=Heads.pack(identifier.partition, parts, heads.made_by))


def unfitted(identifier: Identifier) -> Identifier:
    """An identifier without index, whose decision has lost what was fitted to its people."""
    decision = identifier.decision
    if decision.needs_fit:
        decision = type(decision)(**describe(decision)["arguments"])
    return replace(identifier, index=None, decision=decision)
