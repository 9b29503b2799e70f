# SPDX-License-Identifier: MIT
"""Base of all indexes. Axes: B probes, K identities, P candidates asked for, Q compared, D embedding dimension."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# (B, D) unit probes and p -> (B, P) cosines, descending, and (B, P) int64 identities.
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
# (B, D) float32 unit probes on the CPU and Q -> (B, Q) exact cosines with class means, in any order, and (B, Q) int64
# identities; -1 fills up, with a cosine under -1.
Near = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
BLOCK_ELEMENTS = 1 << 25  # similarities computed at a time: 128 MiB of float32
NO_COSINE = -2.0


class ClassIndex(ABC):
    """Base of all indexes: hyper-parameters as plain numbers and strings, learned structures as tensors.

    All are arguments of the constructor under the attribute's own name, so that an index is saved as JSON and
    safetensors. faiss's own files are not used: its reader trusts the lengths and links in them.
    """

    def fit(self, class_means_KD: Tensor) -> "ClassIndex":
        """A copy with the structures that are slow to learn, from (K, D) float32 unit class means; deterministic."""
        return self

    @abstractmethod
    def open(self, class_means_KD: Tensor, rows: "Rows | None" = None) -> "IndexSearch | None":
        """Builds what is quick to build and not worth saving; None looks at all class means.

        With rows, identities are found by these. The cosines are those of the class means all the same.

        Raises InputError: structures that do not belong to these class means.
        """


@dataclass(frozen=True)
class Rows:
    """One row for each identity: its class mean, or its row of a head."""

    rows_KD: np.ndarray  # float32 and contiguous, in an order of their own
    place_of: np.ndarray  # (K + 1,) int64 row of each identity; the last place, -1, is that of nobody


@dataclass(frozen=True)
class IndexSearch:
    """A `Search` that looks near the probe, and once more, wider, for a probe that found nobody or too few.

    The nearest class mean of a probe that resembles nobody (a stranger, a bad photograph) may be in any cell.

    Args:
        near, wider: the two searches; their cosines are exact, whom they compare need not be the nearest.
        k: class means.
        below: highest cosine under which the wider one is asked.
        more: Q / P; above 1 if the class means compared are chosen by rounded ones, or by rows of a head.
    """

    near: Near
    wider: Near
    k: int
    below: float | None = None
    more: int = 1

    def candidates(self, unit_BD: np.ndarray, q: int, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """What `Near` gives of (B, D) unit probes, at least `least` identities if K are."""
        cosine_BQ, identity_BQ = self.near(unit_BD, q)
        below = NO_COSINE if self.below is None else self.below
        if len(unit_BD) == 1 and least == 1:  # NumPy takes longer for a row of sixteen than faiss for its search
            return self.wider(unit_BD, q) if cosine_BQ[0, cosine_BQ.argmax()] < below else (cosine_BQ, identity_BQ)
        poor_B = cosine_BQ.max(1) < below
        if least > 1:
            poor_B |= (identity_BQ >= 0).sum(1) < least
        if poor_B.any():
            cosine_BQ[poor_B], identity_BQ[poor_B] = self.wider(unit_BD[poor_B], q)
        return cosine_BQ, identity_BQ

    def __call__(self, probes_BD: Tensor, p: int) -> tuple[Tensor, Tensor]:
        """Asks on the CPU, whatever device the probes are on; see `Search`."""
        p = min(p, self.k)
        q = min(self.more * p, self.k)
        found = self.candidates(probes_BD.cpu().numpy(), q, p) if len(probes_BD) else (
            np.zeros((0, p), np.float32), np.zeros((0, p), np.int64)
        )  # fmt: skip
        cosine_BQ, identity_BQ = (torch.from_numpy(part).to(probes_BD.device) for part in found)
        cosine_BP, place_BP = _top(cosine_BQ, p)
        return cosine_BP, identity_BQ.gather(1, place_BP)


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


def all_of(class_means_KD: Tensor) -> Near:
    """`exact_search` of NumPy arrays; the (K, D) class means may be on any device."""
    search = exact_search(class_means_KD)

    def near(unit_BD: np.ndarray, p: int) -> tuple[np.ndarray, np.ndarray]:
        cosine_BP, identity_BP = search(torch.from_numpy(unit_BD).to(class_means_KD.device), p)
        return cosine_BP.cpu().numpy(), identity_BP.cpu().numpy()

    return near


def _top(values_BX: Tensor, p: int) -> tuple[Tensor, Tensor]:
    return values_BX.max(1, keepdim=True) if p == 1 else values_BX.topk(p, dim=1)
