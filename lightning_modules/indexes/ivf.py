# SPDX-License-Identifier: MIT
"""Inverted file of faiss over the class means, with cells of its own that may be finer than the clusters.

Axes: B probes, K identities, L cells, P candidates, D embedding dimension.
"""

import math

import faiss
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.indexes.base import ClassIndex, Search, completed, rescored
from lightning_modules.indexes.faiss_search import faiss_search

ENCODINGS = {"float32": None, "float16": "QT_fp16", "int8": "QT_8bit"}
POINTS_PER_CELL = 64  # class means per cell that its centre is learned from


class InvertedFile(ClassIndex):
    """IVF: class means in cells of their nearest centre, of which the nearest few are looked into.

    Centres and cells are saved and loaded as tensors; filling the lists again takes about as long as reading them.

    Args:
        n_cells: L; None takes 4 sqrt(K).
        n_probe: cells looked into, at least 1.
        encoding: of the class means in the lists: float32, float16 (half the memory and the traffic) or int8; the
            best of rounded ones are compared once more, unrounded.
        iterations: of the k-means that finds the centres.
        seed: of its start.
        centre_LD, cell_K: learned by `fit`.
    """

    def __init__(
        self, n_cells: int | None = None, n_probe: int = 16, encoding: str = "float32", iterations: int = 10,
        seed: int = 0, centre_LD: Tensor | None = None, cell_K: Tensor | None = None,
    ):  # fmt: skip
        if (n_cells is not None and n_cells < 1) or n_probe < 1 or iterations < 1 or seed < 0:
            raise InputError(
                f"n_cells = {n_cells}, n_probe = {n_probe}, iterations = {iterations}, seed = {seed}",
                "at least 1 each, seed from 0", "correct the index",
            )  # fmt: skip
        if encoding not in ENCODINGS:
            raise InputError(f"encoding = {encoding!r}", f"one of {', '.join(ENCODINGS)}", "correct the index")
        self.n_cells, self.n_probe, self.encoding, self.iterations, self.seed = (
            n_cells, n_probe, encoding, iterations, seed,
        )  # fmt: skip
        self.centre_LD, self.cell_K = centre_LD, cell_K

    def fit(self, class_means_KD: Tensor, partition: Partition) -> "InvertedFile":
        """K-means on a part of the class means, and the nearest centre of each; see `ClassIndex.fit`."""
        points_KD = np.ascontiguousarray(class_means_KD.cpu().numpy())
        k, dim = points_KD.shape
        cells = min(k, self.n_cells or round(4 * math.sqrt(k)))
        kmeans = faiss.Kmeans(
            dim, cells, niter=self.iterations, seed=self.seed + 1, spherical=True,
            max_points_per_centroid=POINTS_PER_CELL, min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.train(points_KD)
        _, cell_K1 = kmeans.index.search(points_KD, 1)
        return InvertedFile(
            self.n_cells, self.n_probe, self.encoding, self.iterations, self.seed,
            torch.from_numpy(kmeans.centroids.copy()), torch.from_numpy(cell_K1[:, 0].astype(np.int32)),
        )  # fmt: skip

    def open(self, class_means_KD: Tensor, partition: Partition) -> Search | None:
        """Fills the lists; see `ClassIndex.open`."""
        if self.centre_LD is None or self.cell_K is None:
            return self.fit(class_means_KD, partition).open(class_means_KD, partition)
        points_KD = np.ascontiguousarray(class_means_KD.cpu().numpy())
        k, dim = points_KD.shape
        centres_LD, cell_K = self.centre_LD.cpu().float().numpy(), self.cell_K.cpu().numpy().astype(np.int64)
        cells = len(centres_LD)
        if centres_LD.shape != (cells, dim) or cell_K.shape != (k,) or cell_K.min() < 0 or cell_K.max() >= cells:
            raise InputError(
                f"an inverted file of {cell_K.shape[0]} class means in {cells} cells", f"of {k} class means, {dim}-d",
                "build the index again",
            )  # fmt: skip
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centres_LD)
        kind = ENCODINGS[self.encoding]
        if kind is None:
            index = faiss.IndexIVFFlat(quantizer, dim, cells, faiss.METRIC_INNER_PRODUCT)
        else:
            index = faiss.IndexIVFScalarQuantizer(
                quantizer, dim, cells, getattr(faiss.ScalarQuantizer, kind), faiss.METRIC_INNER_PRODUCT, False
            )
        index.train(points_KD[: max(cells, 10_000)])  # the centres are there; only the range of int8 is learned
        index.nprobe = min(self.n_probe, cells)
        for start in range(0, k, 65_536):
            block = slice(start, start + 65_536)
            identity = np.arange(start, start + len(points_KD[block]), dtype=np.int64)
            place = np.ascontiguousarray(cell_K[block])
            index.add_core(
                len(identity), faiss.swig_ptr(points_KD[block]), faiss.swig_ptr(identity), faiss.swig_ptr(place)
            )
        search = faiss_search(index, quantizer)
        return completed(search if kind is None else rescored(search, class_means_KD), class_means_KD)
