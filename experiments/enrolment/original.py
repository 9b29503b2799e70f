# SPDX-License-Identifier: MIT
"""The data that an Identifier was trained on, if they are still available. Axes: K identities."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.splits import Split, Splits, split_identities
from lightning_modules.identifier import Identifier


@dataclass(frozen=True)
class Original:
    """Set and splits of the training, or the reason why they are missing."""

    embedding_set: EmbeddingSet | None = None
    splits: Splits | None = None
    missing: str = ""  # the reason; empty if set and splits are there
    # People who were enrolled again later, with pictures from elsewhere.
    replaced: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.embedding_set.identities[label] for label in self.splits.enrolled)

    def of(self, split: Split, identifier: Identifier, without: frozenset[str] = frozenset()) -> Split:
        """The samples of the people of an identifier, except those of `without` and `replaced`.

        Labels are indices into `identifier.identities`, in non-decreasing order.
        """
        place = {name: index for index, name in enumerate(identifier.identities)}
        skipped = self.replaced | without
        index_K = np.array([-1 if name in skipped else place.get(name, -1) for name in self.names], dtype=np.int32)
        return relabelled(split, index_K)


def relabelled(split: Split, new_K: np.ndarray) -> Split:
    """The samples with the labels new_K[old label], in their order; the new label -1 drops a sample."""
    labels = new_K[split.labels]
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    return Split(split.rows[order], labels[order])


def open_original(identifier: Identifier) -> Original:
    """Opens the data that the identifier's provenance names, if they did not change."""
    facts = identifier.provenance
    path, split = facts.get("data_path"), facts.get("split")
    if not path or not isinstance(split, dict):
        return Original(missing="the identifier does not say which data it was trained on")
    if not Path(path).is_dir():
        return Original(missing=f"the data it was trained on are no longer in {path}")
    try:
        embedding_set = EmbeddingSet.open(path, check_values=False)
        if embedding_set.fingerprint() != facts.get("data_fingerprint"):
            return Original(missing=f"{path} is not what it was when the identifier was trained")
        splits = split_identities(embedding_set, **split)
        if facts.get("held_out_enrolled"):
            splits = splits.with_held_out(embedding_set.labels)
    except (InputError, TypeError) as error:  # TypeError: unknown arguments of a split
        return Original(missing=f"the data it was trained on cannot be read ({error})")
    changes = facts.get("enrolment") or []
    return Original(embedding_set, splits, replaced=frozenset(name for one in changes for name in one.get("added", ())))
