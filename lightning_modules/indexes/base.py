# SPDX-License-Identifier: MIT
"""Base of all indexes. Axes: B probes, K identities, P candidates, Q before rescoring, D embedding dimension."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.partitioners.base import Partition

# (B, D) unit probes and p -> (B, P) cosines, descending, and (B, P) int64 identities; -1 fills up.
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32


class ClassIndex(ABC):
    """Base of all indexes: hyper-parameters as plain numbers and strings, learned structures as tensors.

    All are arguments of the constructor under the attribute's own name, so that an index is saved as JSON and
    safetensors. faiss's own files are not used: its reader trusts the lengths and links in them.
    """

    def fit(self, class_means_KD: Tensor, partition: Partition) -> "ClassIndex":
        """A copy with the structures that are slow to learn, from (K, D) float32 unit class means; deterministic."""
        return self

    @abstractmethod
    def open(self, class_means_KD: Tensor, partition: Partition) -> Search | None:
        """Builds what is quick to build and not worth saving; None looks at all class means.

        Raises InputError: structures that do not belong to these class means.
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
    return values_BX.max(1, keepdim=True) if p == 1 else values_BX.topk(p, dim=1)


def completed(search: Search, wider: Search, k: int, below: float | None = None) -> Search:
    """A search that asks a wider one about probes with fewer than p of K found, or a highest cosine under `below`.

    The nearest class mean of a probe that resembles nobody (a stranger, a bad photograph) may be in any cell.
    """

    def full(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        p = min(p, k)
        cosine_BP, identity_BP = search(probes_BD, p)
        poor_B = identity_BP[:, -1] < 0
        if below is not None:
            poor_B |= cosine_BP[:, 0] < below
        if poor_B.any():
            cosine_BP[poor_B], identity_BP[poor_B] = wider(probes_BD[poor_B], p)
        return cosine_BP, identity_BP

    return full


def rescored(search: Search, class_means_KD: Tensor, more: int) -> Search:
    """A search by rounded class means; the best `more` times p are compared again with the (K, D) class means."""

    def exact_among_found(probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        _, identity_BQ = search(probes_BD, more * p)
        # A matrix product would wake several threads for a single probe, and wait for them longer than it computes.
        cosine_BQ = (class_means_KD[identity_BQ.clamp_min(0)] * probes_BD[:, None]).sum(2)
        cosine_BP, place_BP = _top(cosine_BQ.masked_fill_(identity_BQ < 0, -torch.inf), p)
        return cosine_BP, identity_BQ.gather(1, place_BP)

    return exact_among_found
