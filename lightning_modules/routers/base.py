# SPDX-License-Identifier: MIT
"""Router: which cluster, or clusters, a probe belongs to. A pure function of the probe's scores."""

from abc import ABC, abstractmethod

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.scores import ProbeScores


class Router(ABC):
    """Base of all routers: hyper-parameters as plain numbers and strings.

    All are arguments of the constructor under the attribute's own name, so that a router is saved and made again.
    """

    needs_heads: bool = False  # whether all M heads are evaluated to find the cluster, not only the one that is found
    quick: bool = False  # whether the cluster is that of the nearest class mean

    @abstractmethod
    def route(self, scores: ProbeScores) -> Tensor:
        """The (B, P) int64 clusters of each probe, best first, each at most once; -1 fills up."""

    def route_onnx(self, scores: OnnxScores) -> str:
        """Adds `route` to an ONNX graph: the name of the (B,) int64 cluster of each probe, a single one.

        Raises InputError: no export is stated.
        """
        raise InputError(f"router {type(self).__name__}", "one that states route_onnx", "it cannot be exported to ONNX")
