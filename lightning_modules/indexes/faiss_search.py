# SPDX-License-Identifier: MIT
"""A faiss index as a search of tensors.

Axes: B probes, P candidates, D embedding dimension.
"""

from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from lightning_modules.indexes.base import Search


def faiss_search(index: Any, *kept: Any) -> Search:
    """Asks a faiss index, which lives on the CPU, whatever device the probes are on.

    Args:
        *kept: objects that the index refers to without owning them.
    """

    def search(probes_BD: Tensor, p: int, _kept: tuple = kept) -> tuple[Tensor, Tensor]:
        cosine_BP, identity_BP = index.search(np.ascontiguousarray(probes_BD.cpu().numpy()), p)
        return torch.from_numpy(cosine_BP).to(probes_BD.device), torch.from_numpy(identity_BP).to(probes_BD.device)

    return search


def add_in_order(index: Any, rows_ND: np.ndarray) -> None:
    """Adds rows by one thread: several insert in an order of their own, and the same seed must repeat."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(np.ascontiguousarray(rows_ND, np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
