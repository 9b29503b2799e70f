# SPDX-License-Identifier: MIT
"""Index: finds the class means most similar to a probe without looking at all K of them.

Axes: B probes, K identities, M clusters, P candidates, D embedding dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.partitioners.base import Partition

# (B, D) unit probes and p -> (B, P) cosines, descending, and (B, P) int64 identities; -1 where nothing was found.
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32


class ClassIndex(ABC):
    """Base of all indexes: hyper-parameters as plain numbers and strings, learned structures as tensors.

    All are arguments of the constructor under the attribute's own name, so that an index is saved as JSON and
    safetensors and made again: no file format of another library is read, and nothing of it is trusted unchecked.
    """

    def fit(self, class_means_KD: Tensor, partition: Partition) -> "ClassIndex":
        """This index with the structures that cost time to make, of (K, D) float32 unit class means.

        Itself is not changed. Repeats itself.
        """
        return self

    @abstractmethod
    def open(self, class_means_KD: Tensor, partition: Partition) -> Search | None:
        """Makes the index ready for questions; for quick things that are not worth saving.

        Returns:
            The search; None looks at all class means.

        Raises:
            InputError: structures that do not belong to these class means.
        """


def exact_search(class_means_KD: Tensor) -> Search:
    """Looks at all class means, (K, D) float32 of unit length."""

    def search(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        step = max(1, BLOCK_ELEMENTS // max(1, len(probes_BD)))
        best_BP, identity_BP = None, None
        for start in range(0, len(class_means_KD), step):
            cosine_Bk = probes_BD @ class_means_KD[start : start + step].T
            found_BP, place_BP = _top(cosine_Bk, min(p, cosine_Bk.shape[1]))
            place_BP = place_BP + start
            if best_BP is not None:
                found_BP, place_BP = torch.cat([best_BP, found_BP], 1), torch.cat([identity_BP, place_BP], 1)
                found_BP, order_BP = _top(found_BP, min(p, found_BP.shape[1]))
                place_BP = place_BP.gather(1, order_BP)
            best_BP, identity_BP = found_BP, place_BP
        return best_BP, identity_BP

    return search


def _top(values_BX: Tensor, p: int) -> tuple[Tensor, Tensor]:
    if p == 1:
        best_B, place_B = values_BX.max(1)
        return best_B[:, None], place_B[:, None]
    return values_BX.topk(p, dim=1)


def completed(search: Search, class_means_KD: Tensor, exact_below: float | None = None) -> Search:
    """A search that asks all class means for those probes for which an index finds fewer than p, or nobody similar.

    A probe that resembles nobody (a stranger, a bad photograph) has its nearest class means anywhere, so that cells
    miss them; such probes are few, and their low cosine tells them.

    Args:
        class_means_KD: (K, D) float32 unit class means.
        exact_below: highest cosine under which a probe is searched for again; None never does so.
    """
    exact = exact_search(class_means_KD)

    def full(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        p = min(p, len(class_means_KD))
        cosine_BP, identity_BP = search(probes_BD, p)
        short_B = (identity_BP < 0).any(1)
        if exact_below is not None:
            short_B |= cosine_BP[:, 0] < exact_below
        if short_B.any():
            cosine_BP[short_B], identity_BP[short_B] = exact(probes_BD[short_B], p)
        return cosine_BP, identity_BP

    return full


def rescored(search: Search, class_means_KD: Tensor, more: int = 4) -> Search:
    """A search by rounded class means whose best few are compared once more, with the (K, D) class means themselves."""

    def exact_among_found(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        _, identity_BQ = search(probes_BD, more * p)
        cosine_BQ = torch.einsum("bqd,bd->bq", class_means_KD[identity_BQ.clamp_min(0)], probes_BD)
        best_BP = cosine_BQ.masked_fill(identity_BQ < 0, -torch.inf).topk(p, dim=1)
        return best_BP.values, identity_BQ.gather(1, best_BP.indices)

    return exact_among_found
