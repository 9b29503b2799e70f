# SPDX-License-Identifier: MIT
"""The scores of `lightning_modules.scores` once more, as values of an ONNX graph instead of tensors.

A router or a decision that can be exported builds its answer from these; a value is known by its name in the graph.

Axes: B probes, K identities, M clusters, P candidates, D embedding dimension, S rows of all heads.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from datamodules.errors import InputError
from lightning_modules.scores import Heads

OPSET = 17  # onnxruntime 1.12 and later; from 18 on some reductions take their axes as an input


class OnnxScores:
    """Builds a graph whose input `embeddings` is (B, D) float32 with B open. Everything is added when first used.

    Args:
        class_means_KD, centres_MD: float32, of unit length.
        cluster_of_K: home cluster of each identity.

    Raises:
        InputError: the package onnx is not installed.
    """

    def __init__(
        self, class_means_KD: np.ndarray, centres_MD: np.ndarray, cluster_of_K: np.ndarray, heads: Heads | None
    ):
        try:
            import onnx
        except ImportError:
            raise InputError("no package onnx", "it for the export", "pip install 'clusterface[onnx]'") from None
        self.onnx, self._count = onnx, 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.class_means_KD, self.centres_MD, self.heads = class_means_KD, centres_MD, heads
        self.n_clusters = len(centres_MD)
        self._cluster_of_K = cluster_of_K.astype(np.int64)
        self._nearest: dict[int, tuple[str, str]] = {}

    def constant(self, value: Any) -> str:
        """The name of a numpy array of any shape, or a number, in the graph; it keeps its dtype."""
        self._count += 1
        name = f"constant_{self._count}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output of a new node of ONNX, opset `OPSET`."""
        return self.add_many(1, operator, *inputs, **attributes)[0]

    def add_many(self, n_outputs: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        self._count += 1
        names = [f"{operator.lower()}_{self._count}" + (f"_{i}" if n_outputs > 1 else "") for i in range(n_outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def argmax(self, values_BX: str) -> str:
        """(B,) int64 place of the first of the largest values of (B, X)."""
        return self.add("ArgMax", values_BX, axis=1, keepdims=0)

    def max(self, values_BX: str) -> str:
        """(B,) largest value of (B, X)."""
        return self.add("ReduceMax", values_BX, axes=[1], keepdims=0)

    def lookup(self, table_X: np.ndarray, index: str) -> str:
        """table[index] for an int64 table, of the shape of `index`."""
        return self.add("Gather", self.constant(table_X.astype(np.int64)), index, axis=0)

    def column(self, values_BX: str, place: int) -> str:
        """(B,) column of (B, X)."""
        return self.add("Gather", values_BX, self.constant(np.int64(place)), axis=1)

    @cached_property
    def _valid_and_largest_B1(self) -> tuple[str, str]:
        size_BD, zero = self.add("Abs", "embeddings"), self.constant(np.float32(0))
        finite_BD = self.add("Less", size_BD, self.constant(np.float32(np.inf)))  # NaN is not less
        as_number_BD = self.add("Cast", finite_BD, to=int(self.onnx.TensorProto.FLOAT))
        least_B1 = self.add("ReduceMin", as_number_BD, axes=[1], keepdims=1)
        largest_B1 = self.add("ReduceMax", self.add("Where", finite_BD, size_BD, zero), axes=[1], keepdims=1)
        valid_B1 = self.add("And", self.add("Greater", least_B1, zero), self.add("Greater", largest_B1, zero))
        return valid_B1, largest_B1

    @cached_property
    def valid_B(self) -> str:
        """(B,) bool: whether a probe is finite and not all zero."""
        return self.add("Squeeze", self._valid_and_largest_B1[0], self.constant(np.array([1], np.int64)))

    @cached_property
    def probes_BD(self) -> str:
        """(B, D) probes of unit length, zeros if not valid."""
        valid_B1, largest_B1 = self._valid_and_largest_B1  # the square of a very large or small number is no float32
        scaled_BD = self.add("Where", valid_B1, self.add("Div", "embeddings", largest_B1), self.constant(np.float32(0)))
        length_B1 = self.add("ReduceL2", scaled_BD, axes=[1], keepdims=1)
        return self.add("Div", scaled_BD, self.add("Max", length_B1, self.constant(np.float32(1e-12))))

    @cached_property
    def cosine_BK(self) -> str:
        return self.add("MatMul", self.probes_BD, self.constant(self.class_means_KD.T.astype(np.float32)))

    @cached_property
    def centre_cosine_BM(self) -> str:
        return self.add("MatMul", self.probes_BD, self.constant(self.centres_MD.T.astype(np.float32)))

    @cached_property
    def output_BS(self) -> str:
        """(B, S) outputs of all heads: a graph cannot pick a head for each probe without copying its weights."""
        rows_SD = self.heads.linear("ONNX export").cpu().numpy()
        return self.add("MatMul", self.probes_BD, self.constant(rows_SD.T.astype(np.float32)))

    @cached_property
    def cluster_of_S(self) -> np.ndarray:
        """(S,) int64 cluster of each row of the heads."""
        return np.repeat(np.arange(self.n_clusters), np.diff(self.heads.starts))

    def cluster_of(self, identity: str) -> str:
        """Home cluster of identities, of the shape of `identity`."""
        return self.lookup(self._cluster_of_K, identity)

    def identity_of(self, row: str) -> str:
        """Identity of rows of the heads, of the shape of `row`."""
        return self.lookup(self.heads.identity_S.cpu().numpy(), row)

    def nearest_classes(self, p: int = 1) -> tuple[str, str]:
        """(B, P) cosines, descending, and (B, P) int64 identities of the min(p, K) nearest class means."""
        p = min(p, len(self.class_means_KD))
        if p not in self._nearest:
            count = self.constant(np.array([p], np.int64))
            cosines, identities = self.add_many(2, "TopK", self.cosine_BK, count, axis=1)
            self._nearest[p] = cosines, identities
        return self._nearest[p]

    def best_in_cluster(self, cluster_B: str) -> tuple[str, str]:
        """Of one head per probe, (B,) highest output and (B,) int64 its identity."""
        output_BS = self.output_BS
        if self.n_clusters > 1:
            asked_B1 = self.add("Unsqueeze", cluster_B, self.constant(np.array([1], np.int64)))
            inside_BS = self.add("Equal", asked_B1, self.constant(self.cluster_of_S[None].astype(np.int64)))
            output_BS = self.add("Where", inside_BS, output_BS, self.constant(np.float32(-np.inf)))
        return self.max(output_BS), self.identity_of(self.argmax(output_BS))


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of any device as a float32 array of the same shape."""
    return tensor.detach().cpu().float().numpy()
