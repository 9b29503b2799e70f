# SPDX-License-Identifier: MIT
"""Index: finds the class means most similar to a probe without looking at all K of them.

Axes: B probes, K identities, M clusters, P candidates, D embedding dimension.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition

# (B, D) unit probes and p -> (B, P) cosines, descending, and (B, P) int64 identities; -1 where nothing was found.
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
PREFIX = "lightning_modules.indexes."
BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32


class ClassIndex(ABC):
    """Base of all indexes: hyper-parameters as plain numbers and strings, learned structures as tensors.

    All are arguments of the constructor under the attribute's own name, so that an index is saved as JSON and
    safetensors and made again: no file format of another library is read, and nothing of it is trusted unchecked.
    """

    def fit(self, class_means_KD: Tensor, partition: Partition) -> "ClassIndex":
        """This index with the structures that cost time to make; itself is not changed. Repeats itself.

        Args:
            class_means_KD: (K, D) float32 unit class means.
            partition: who belongs to which cluster.
        """
        return self

    @abstractmethod
    def open(self, class_means_KD: Tensor, partition: Partition) -> Search | None:
        """Makes the index ready for questions; for quick things that are not worth saving.

        Args:
            class_means_KD, partition: as given to `fit`.

        Returns:
            The search; None looks at all class means.

        Raises:
            InputError: structures that do not belong to these class means.
        """


def describe(index: ClassIndex | None) -> dict[str, Any] | None:
    """Class and plain arguments of an index, as JSON values.

    Args:
        index: the index, or None.
    """
    if index is None:
        return None
    plain = {key: value for key, value in vars(index).items() if not isinstance(value, Tensor)}
    return {"class": f"{type(index).__module__}.{type(index).__qualname__}", "arguments": plain}


def tensors_of(index: ClassIndex | None) -> dict[str, Tensor]:
    """Learned structures of an index under the names `index.<argument>`.

    Args:
        index: the index, or None.
    """
    found = {} if index is None else vars(index)
    return {f"index.{key}": value.contiguous() for key, value in found.items() if isinstance(value, Tensor)}


def restore(description: dict[str, Any] | None, tensors: dict[str, Tensor]) -> ClassIndex | None:
    """The index that `describe` and `tensors_of` were taken from.

    Args:
        description: of `describe`; None for none.
        tensors: of `tensors_of`, others among them.

    Raises:
        InputError: a class that is no index of this project, or arguments it does not take.
    """
    if description is None:
        return None
    cure = "use a folder that this project wrote"
    name = str(description.get("class"))
    module, _, qualname = name.rpartition(".")
    # Only modules of this package: a foreign JSON must not choose what is imported.
    if not module.startswith(PREFIX) or not module.removeprefix(PREFIX).isidentifier():
        raise InputError(f"class {name!r}", f"one of {PREFIX}*", cure)
    learned = {key.removeprefix("index."): value for key, value in tensors.items() if key.startswith("index.")}
    try:
        found = getattr(importlib.import_module(module), qualname)
        index = found(**description["arguments"], **learned) if issubclass(found, ClassIndex) else None
    except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"index {name!r} ({error})", "an index with its arguments", cure) from None
    if index is None:
        raise InputError(f"class {name!r}", "an index", cure)
    return index


def exact_search(class_means_KD: Tensor) -> Search:
    """Looks at all class means.

    Args:
        class_means_KD: (K, D) float32 unit class means.
    """

    def search(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        blocks = [
            (probes_bD @ class_means_KD.T).topk(p, dim=1) for probes_bD in _blocks(probes_BD, len(class_means_KD))
        ]
        return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])

    return search


def completed(search: Search, class_means_KD: Tensor) -> Search:
    """A search that asks all class means for those probes for which an index finds fewer than p.

    Args:
        search: of an index.
        class_means_KD: (K, D) float32 unit class means.
    """
    exact = exact_search(class_means_KD)

    def full(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        p = min(p, len(class_means_KD))
        cosine_BP, identity_BP = search(probes_BD, p)
        short_B = (identity_BP < 0).any(1)
        if short_B.any():
            cosine_BP[short_B], identity_BP[short_B] = exact(probes_BD[short_B], p)
        return cosine_BP, identity_BP

    return full


def rescored(search: Search, class_means_KD: Tensor, more: int = 4) -> Search:
    """A search by rounded class means whose best few are compared once more, with the class means themselves.

    Args:
        search: of an index that rounds.
        class_means_KD: (K, D) float32 unit class means.
        more: times p candidates are taken from it.
    """

    def exact_among_found(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        _, identity_BQ = search(probes_BD, more * p)
        cosine_BQ = torch.einsum("bqd,bd->bq", class_means_KD[identity_BQ.clamp_min(0)], probes_BD)
        best_BP = cosine_BQ.masked_fill(identity_BQ < 0, -torch.inf).topk(p, dim=1)
        return best_BP.values, identity_BQ.gather(1, best_BP.indices)

    return exact_among_found


def _blocks(probes_BD: Tensor, columns: int) -> tuple[Tensor, ...]:
    return torch.split(probes_BD, max(1, BLOCK_ELEMENTS // columns))
