# SPDX-License-Identifier: MIT
"""Parts of faiss. Axes: B probes, P candidates, K class means, L cells, R dimensions."""

from typing import Any

import faiss
import numpy as np

ENCODINGS = {"float32": None, "float16": "QT_fp16", "int8": "QT_8bit_uniform"}
ADD_ROWS = 1 << 16  # class means that are coded at a time


def products(unit_BD: np.ndarray, rows_SD: np.ndarray, place_BQ: np.ndarray) -> np.ndarray:
    """(B, Q) inner products of each (B, D) probe and the rows at its (B, Q) int64 places; -inf at a place of -1.

    All arrays are contiguous, in [0, S) and float32. Nothing is gathered: rows are read where they lie.
    """
    product_BQ = np.empty(place_BQ.shape, np.float32)
    pointers = map(faiss.swig_ptr, (product_BQ, unit_BD, rows_SD, place_BQ))
    faiss.fvec_inner_products_by_idx(*pointers, unit_BD.shape[1], *place_BQ.shape)  # type: ignore[attr-defined]
    return product_BQ


def linear_map(map_DR: np.ndarray) -> Any:
    """faiss's product with (D, R) float32: `apply` of (B, D). NumPy's threads would wait beside those of faiss."""
    linear: Any = faiss.LinearTransform(*map_DR.shape, False)  # type: ignore[call-arg]
    faiss.copy_array_to_vector(np.ascontiguousarray(map_DR.T).ravel(), linear.A)
    linear.is_trained = True
    return linear


def inverted_lists(points_KR: np.ndarray, quantizer: Any, cell_K: np.ndarray, encoding: str = "float32") -> Any:
    """An inverted file by inner product whose cells are given (Jegou, Douze & Schmid, TPAMI 2011).

    The points are float32. The quantizer finds the L cells of a probe. The encoding is one of `ENCODINGS`.
    """
    cells, dim, kind = quantizer.ntotal, points_KR.shape[1], ENCODINGS[encoding]
    index: faiss.IndexIVF
    if kind is None:
        index = faiss.IndexIVFFlat(quantizer, dim, cells, faiss.METRIC_INNER_PRODUCT)
    else:
        kind = getattr(faiss.ScalarQuantizer, kind)
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, cells, kind, faiss.METRIC_INNER_PRODUCT, False)
    index.train(points_KR[: max(cells, 10_000)])  # the cells are known; only the range of int8 is learned
    for start in range(0, len(points_KR), ADD_ROWS):
        block_bR = np.ascontiguousarray(points_KR[start : start + ADD_ROWS])
        identity_b = np.arange(start, start + len(block_bR), dtype=np.int64)
        cell_b = np.ascontiguousarray(cell_K[start : start + ADD_ROWS], np.int64)
        index.add_core(len(block_bR), *(faiss.swig_ptr(part) for part in (block_bR, identity_b, cell_b)))
    return index


def add_in_order(index: Any, rows_ND: np.ndarray) -> None:
    """Adds rows by one thread: several insert in an order of their own, and the same seed must repeat."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        index.add(np.ascontiguousarray(rows_ND, np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
