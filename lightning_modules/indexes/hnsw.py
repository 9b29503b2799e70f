# SPDX-License-Identifier: MIT
"""HNSW graph of faiss over the class means. Axes: K identities, E links, D embedding dimension."""

import faiss
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import ClassIndex, IndexSearch, all_of
from lightning_modules.indexes.faiss_search import add_in_order, faiss_near


class Hnsw(ClassIndex):
    """Walks a graph from neighbour to neighbour (Malkov & Yashunin, TPAMI 2020): logarithmic in K, but slow to build.

    The graph is three tensors whose bounds are checked, so that no file of faiss is parsed. One thread builds it, which
    makes it the same every time.

    Args:
        n_links: links of a node per layer, twice as many in the lowest; at least 2.
        ef_construction, ef_search: candidates kept while building and searching, at least 1.
        level_K, offset_K1, link_E: the graph, learned by `fit`: layers of each node, where its links begin, and the
            links, -1 for none.
    """

    def __init__(
        self, n_links: int = 32, ef_construction: int = 40, ef_search: int = 64, level_K: Tensor | None = None,
        offset_K1: Tensor | None = None, link_E: Tensor | None = None,
    ):  # fmt: skip
        if n_links < 2 or ef_construction < 1 or ef_search < 1:
            raise InputError(
                f"n_links = {n_links}, ef_construction = {ef_construction}, ef_search = {ef_search}",
                "at least 2, 1 and 1", "correct the index",
            )  # fmt: skip
        self.n_links, self.ef_construction, self.ef_search = n_links, ef_construction, ef_search
        self.level_K, self.offset_K1, self.link_E = level_K, offset_K1, link_E

    def fit(self, class_means_KD: Tensor, partition: Partition) -> "Hnsw":
        index = self._empty(class_means_KD.shape[1])
        add_in_order(index, class_means_KD.cpu().numpy())
        level_K, offset_K1, link_E = (
            torch.from_numpy(faiss.vector_to_array(getattr(index.hnsw, name)).astype(dtype))
            for name, dtype in (("levels", np.int32), ("offsets", np.int64), ("neighbors", np.int32))
        )
        return Hnsw(self.n_links, self.ef_construction, self.ef_search, level_K, offset_K1, link_E)

    def open(self, class_means_KD: Tensor, partition: Partition) -> IndexSearch | None:
        if self.link_E is None:
            return self.fit(class_means_KD, partition).open(class_means_KD, partition)
        points_KD = np.ascontiguousarray(class_means_KD.cpu().numpy())
        index = self._empty(points_KD.shape[1])
        level_K, offset_K1, link_E = self._checked_graph(index, len(points_KD))
        index.storage.add(points_KD)
        index.ntotal = len(points_KD)
        for name, values in (("levels", level_K), ("offsets", offset_K1.astype(np.uint64)), ("neighbors", link_E)):
            faiss.copy_array_to_vector(np.ascontiguousarray(values), getattr(index.hnsw, name))
        # The walk may begin at any node of the highest layer.
        index.hnsw.entry_point, index.hnsw.max_level = int(level_K.argmax()), int(level_K.max()) - 1
        index.hnsw.efSearch = self.ef_search
        return IndexSearch(faiss_near(index), all_of(class_means_KD), len(points_KD))

    def _empty(self, dim: int) -> faiss.IndexHNSWFlat:
        index = faiss.IndexHNSWFlat(dim, self.n_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def _checked_graph(self, index: faiss.IndexHNSWFlat, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        level_K, offset_K1, link_E = (
            part.cpu().numpy().astype(dtype)
            for part, dtype in ((self.level_K, np.int32), (self.offset_K1, np.int64), (self.link_E, np.int32))
        )
        # Links per node of so many layers, as this faiss lays them out.
        room = faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level)
        fits = (
            level_K.shape == (k,) and offset_K1.shape == (k + 1,) and link_E.ndim == 1
            and level_K.min() >= 1 and level_K.max() < len(room)
            and offset_K1[0] == 0 and offset_K1[-1] == len(link_E)
            and np.array_equal(np.diff(offset_K1), room[level_K])
            and link_E.min() >= -1 and link_E.max() < k
            and self._links_stay_in_their_layer(level_K, offset_K1, link_E, room)
        )  # fmt: skip
        if not fits:
            raise InputError(f"a graph of {len(level_K)} nodes", f"one of {k} class means", "build the index again")
        return level_K, offset_K1, link_E

    @staticmethod
    def _links_stay_in_their_layer(
        level_K: np.ndarray, offset_K1: np.ndarray, link_E: np.ndarray, room: np.ndarray
    ) -> bool:
        # A link of a high layer to a node that does not reach it would send the walk beyond that node's links.
        for layer in range(1, int(level_K.max())):
            nodes = np.flatnonzero(level_K > layer)
            start = offset_K1[nodes] + room[layer]
            links = link_E[(start[:, None] + np.arange(room[layer + 1] - room[layer])).ravel()]
            if (level_K[links[links >= 0]] <= layer).any():
                return False
        return True
