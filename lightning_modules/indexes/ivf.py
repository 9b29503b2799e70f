# SPDX-License-Identifier: MIT
"""Inverted file of faiss over the class means. Axes: K identities, L cells, D dimension, R directions."""

import math
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from datamodules.errors import InputError
from lightning_modules.indexes.base import BLOCK_ELEMENTS, ClassIndex, IndexSearch, Near, Rows, all_of
from lightning_modules.indexes.faiss_search import ADD_ROWS, ENCODINGS, inverted_lists, linear_map, products

POINTS_PER_CELL = 64  # class means per cell that its centre is learned from
MOMENT_POINTS = 20_000  # class means that the directions are learned from
BLOCK = 1 << 13  # class means in a matrix product: their floats stay in the cache
GROUP = 16  # class means of which only the best product is kept
GROUPS = 4  # groups whose class means are compared exactly for each candidate
SHORT = 0.75  # share of the directions that the matrix products have
MANY_PROBES = 256  # in a matrix product
CANDIDATES = 16  # rounded class means that are compared again for each one asked for


class InvertedFile(ClassIndex):
    """Class means in cells of their nearest centre; the nearest few cells are looked into.

    Args:
        n_cells: L; None takes 4 sqrt(K).
        n_probe: cells looked into, at least 1.
        encoding: of the class means in the lists: float32, float16 (half the memory and the traffic) or int8; the
            best of rounded ones are compared again, unrounded.
        dims: R, directions in which class means and probes are compared first, those in which the class means are
            longest; None takes all. The best are compared again in all D.
        exact_below: highest cosine under which more cells are looked into after all; None never does so.
        iterations: of the k-means that finds the centres.
        map_DR, centre_LR, cell_K: learned by `fit`: the directions, the centres, the cell of each class mean.
        wide_share: share of the cells that are looked into under `exact_below`, above 0; 1 takes all.
    """

    def __init__(
        self, n_cells: int | None = None, n_probe: int = 16, encoding: str = "float32", dims: int | None = None,
        exact_below: float | None = 0.6, iterations: int = 10, seed: int = 0, map_DR: Tensor | None = None,
        centre_LR: Tensor | None = None, cell_K: Tensor | None = None, wide_share: float = 1.0,
    ):  # fmt: skip
        counts = [n_probe, iterations, *(value for value in (n_cells, dims) if value is not None)]
        cosine = exact_below is None or -1 <= exact_below <= 1
        if min(counts) < 1 or seed < 0 or not cosine or not 0 < wide_share <= 1:
            raise InputError(
                f"n_cells = {n_cells}, n_probe = {n_probe}, dims = {dims}, iterations = {iterations}, seed = {seed}, "
                f"exact_below = {exact_below}, wide_share = {wide_share}",
                "at least 1 each, seed from 0, a cosine, a share", "correct the index",
            )  # fmt: skip
        if encoding not in ENCODINGS:
            raise InputError(f"encoding = {encoding!r}", f"one of {', '.join(ENCODINGS)}", "correct the index")
        self.n_cells, self.n_probe, self.encoding, self.dims = n_cells, n_probe, encoding, dims
        self.exact_below, self.iterations, self.seed, self.wide_share = exact_below, iterations, seed, wide_share
        self.map_DR, self.centre_LR, self.cell_K = map_DR, centre_LR, cell_K

    def fit(self, class_means_KD: Tensor) -> "InvertedFile":
        k, dim = class_means_KD.shape
        map_DR = None
        if self.dims is not None and self.dims < dim:
            part_XD = class_means_KD[:: max(1, k // MOMENT_POINTS)].cpu().double()
            # Not centred: inner products with the mean would differ from class mean to class mean.
            map_DR = torch.linalg.eigh(part_XD.T @ part_XD).eigenvectors[:, -self.dims :].float().contiguous()
        points_KR = _mapped(class_means_KD, map_DR)
        cells = min(k, self.n_cells or round(4 * math.sqrt(k)))
        kmeans = faiss.Kmeans(
            points_KR.shape[1], cells, niter=self.iterations, seed=self.seed + 1, spherical=True,
            max_points_per_centroid=POINTS_PER_CELL, min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.train(points_KR)
        _, cell_K1 = kmeans.index.search(points_KR, 1)
        return InvertedFile(
            self.n_cells, self.n_probe, self.encoding, self.dims, self.exact_below, self.iterations, self.seed, map_DR,
            torch.from_numpy(kmeans.centroids.copy()), torch.from_numpy(cell_K1[:, 0].astype(np.int32)),
            self.wide_share,
        )  # fmt: skip

    def lists(self, rows: Rows) -> tuple[Any, Callable[[int], Any]]:
        """faiss's index of the filled lists, and its search parameters that look into so many cells.

        A row lies in the cell of its identity's class mean.

        Raises InputError: learned structures that do not belong to these identities.
        """
        centres_LR, cell_K = self.centre_LR.cpu().float().numpy(), self.cell_K.cpu().numpy()
        (k, d), dim, cells = rows.rows_KD.shape, centres_LR.shape[-1], len(centres_LR)
        fits = (
            centres_LR.ndim == 2 and cell_K.shape == (k,) and cell_K.min() >= 0 and cell_K.max() < cells
            and (d, dim) == (tuple(self.map_DR.shape) if self.map_DR is not None else (dim, dim))
        )  # fmt: skip
        if not fits:
            raise InputError(
                f"an inverted file of {len(cell_K)} class means in {cells} cells, {dim}-d",
                f"of {k} class means, {d}-d", "build the index again",
            )  # fmt: skip
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centres_LR)
        index = inverted_lists(_points(rows, self.map_DR), quantizer, cell_K, self.encoding)
        if self.map_DR is not None:
            index = faiss.IndexPreTransform(linear_map(self.map_DR.cpu().numpy()), index)

        def looks(into: int) -> Any:
            parameters: Any = faiss.SearchParametersIVF(nprobe=min(into, cells))  # type: ignore[call-arg]
            if self.map_DR is None:
                return parameters
            return faiss.SearchParametersPreTransform(index_params=parameters)  # type: ignore[call-arg]

        return index, looks

    def open(self, class_means_KD: Tensor, rows: Rows | None = None) -> IndexSearch | None:
        if self.centre_LR is None or self.cell_K is None:
            return self.fit(class_means_KD).open(class_means_KD, rows)
        means_KD = np.ascontiguousarray(class_means_KD.cpu().numpy())
        # Rounded class means, and rows of a head, only choose whom to compare.
        chosen = rows is not None or self.map_DR is not None or self.encoding != "float32"
        rows = rows or in_order(means_KD)
        index, looks = self.lists(rows)
        cells = len(self.centre_LR)
        wide = math.ceil(self.wide_share * cells)
        near, wider = (_near(index, looks(into), means_KD if chosen else None) for into in (self.n_probe, wide))
        if wide == cells:
            wider = _all_rounded(wider, rows, self.map_DR, means_KD) if chosen else all_of(class_means_KD)
        return IndexSearch(near, wider, len(means_KD), self.exact_below, CANDIDATES if chosen else 1)


def in_order(means_KD: np.ndarray) -> Rows:
    """(K, D) class means as the rows of their identities."""
    return Rows(means_KD, np.append(np.arange(len(means_KD)), -1))


def _near(index: Any, parameters: Any, means_KD: np.ndarray | None) -> Near:
    """A search of faiss; those that it finds are compared with the (K, D) class means if there are any."""

    def near(unit_BD: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
        cosine_BQ, identity_BQ = index.search(unit_BD, q, params=parameters)
        return (cosine_BQ if means_KD is None else products(unit_BD, means_KD, identity_BQ)), identity_BQ

    return near


def _all_rounded(few: Near, rows: Rows, map_DR: Tensor | None, means_KD: np.ndarray) -> Near:
    """Looks at all rows by matrix products; the lists of `few` are faster for a single probe.

    The products are of rows rounded to 8 bits, in the longest directions of the class means. The groups with the best
    products are compared exactly. Axes: X rows in them, G such groups.
    """
    short_DR = None if map_DR is None else map_DR[:, -math.ceil(SHORT * map_DR.shape[1]) :]
    points_KR = torch.from_numpy(_points(rows, short_DR))
    scale, k = 127 / points_KR.abs().max(), len(points_KR)
    code_KR = torch.cat([(part * scale).round().to(torch.int8) for part in points_KR.split(ADD_ROWS)])
    code_KR = pad(code_KR, (0, 0, 0, -k % GROUP))

    def some(unit_BD: Tensor, q: int) -> Tensor:
        mapped_RB = torch.from_numpy(_mapped(unit_BD, short_DR)).T
        best = [(part.float() @ mapped_RB).unflatten(0, (-1, GROUP)).amax(1) for part in code_KR.split(BLOCK)]
        group_BG = torch.cat(best).T.topk(min(GROUPS * q, len(code_KR) // GROUP)).indices
        identity_BX = (group_BG[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
        identity_BX[identity_BX >= k] = -1
        product_BX = products(unit_BD.numpy(), rows.rows_KD, rows.place_of[identity_BX.numpy()])
        return identity_BX.gather(1, torch.from_numpy(product_BX).topk(q).indices)

    def near(unit_BD: np.ndarray, q: int) -> tuple[np.ndarray, np.ndarray]:
        if len(unit_BD) == 1:
            return few(unit_BD, q)
        size = min(MANY_PROBES, max(1, BLOCK_ELEMENTS // (GROUPS * q * GROUP)))
        identity_BQ = torch.cat([some(part, q) for part in torch.from_numpy(unit_BD).split(size)]).numpy()
        return products(unit_BD, means_KD, identity_BQ), identity_BQ

    return near


def _points(rows: Rows, map_DR: Tensor | None) -> np.ndarray:
    """(K, R) rows in the order of the identities, in the directions."""
    place_K = rows.place_of[:-1]
    point_KR = np.empty((len(place_K), rows.rows_KD.shape[1] if map_DR is None else map_DR.shape[1]), np.float32)
    for start in range(0, len(place_K), ADD_ROWS):
        block = slice(start, start + ADD_ROWS)
        point_KR[block] = _mapped(torch.from_numpy(rows.rows_KD[place_K[block]]), map_DR)
    return point_KR


def _mapped(rows_ND: Tensor, map_DR: Tensor | None) -> np.ndarray:
    mapped = rows_ND if map_DR is None else rows_ND @ map_DR.to(rows_ND.device)
    return np.ascontiguousarray(mapped.cpu().numpy())
