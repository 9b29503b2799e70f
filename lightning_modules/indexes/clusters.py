# SPDX-License-Identifier: MIT
"""An inverted file whose cells are the clusters. Axes: K identities, M clusters, D embedding dimension."""

import faiss
import numpy as np
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import ClassIndex, IndexSearch, all_of
from lightning_modules.indexes.faiss_search import faiss_near, inverted_lists


class Clusters(ClassIndex):
    """Looks at the class means of the clusters whose centre, the mean of their class means, is nearest.

    Nothing is learned. An identity of several clusters is found in its home cluster.

    Args:
        n_clusters: clusters looked into, at least 1; M or more looks at all class means.
        exact_below: highest cosine under which all class means are looked at after all; None never does so.
    """

    def __init__(self, n_clusters: int = 8, exact_below: float | None = 0.6):
        if n_clusters < 1 or (exact_below is not None and not -1 <= exact_below <= 1):
            raise InputError(
                f"n_clusters = {n_clusters}, exact_below = {exact_below}", "at least 1 cluster to look into, a cosine",
                "correct the index",
            )  # fmt: skip
        self.n_clusters, self.exact_below = n_clusters, exact_below

    def lists(self, class_means_KD: Tensor, partition: Partition) -> tuple[faiss.IndexIVF, faiss.IndexFlat]:
        """The filled lists, and the quantizer, which must be kept as long as they are."""
        means_KD, cell_K = class_means_KD.cpu().numpy(), partition.cluster_of
        centres = [means_KD[cell_K == cluster].mean(axis=0) for cluster in range(partition.n_clusters)]
        # Euclidean, as k-means assigns class means: centres of wide clusters are shorter.
        quantizer = faiss.IndexFlatL2(means_KD.shape[1])
        quantizer.add(np.stack(centres))
        index = inverted_lists(means_KD, quantizer, cell_K)
        index.nprobe = self.n_clusters
        return index, quantizer

    def open(self, class_means_KD: Tensor, partition: Partition) -> IndexSearch | None:
        if self.n_clusters >= partition.n_clusters:
            return None
        near = faiss_near(*self.lists(class_means_KD, partition))
        return IndexSearch(near, all_of(class_means_KD), len(class_means_KD), self.exact_below)
