# SPDX-License-Identifier: MIT
"""Router: which cluster, or clusters, a probe belongs to. A pure function of the probe's scores."""

from abc import ABC, abstractmethod

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.scores import ProbeScores


class Router(ABC):
    """Base of all routers; holds hyper-parameters only, as plain numbers and strings, so that it is saved as JSON.

    Attributes:
        needs_heads: whether all M heads are evaluated to find the cluster, not only the one that is found.
    """

    needs_heads: bool = False

    @abstractmethod
    def route(self, scores: ProbeScores) -> Tensor:
        """Finds the clusters of each probe.

        Args:
            scores: of B probes.

        Returns:
            (B, P) int64 clusters in [0, M), best first, each at most once; -1 fills up where there are fewer.
        """

    def route_onnx(self, scores: OnnxScores) -> list[str]:
        """Adds what `route` does to an ONNX graph; a router that does not state it cannot be exported.

        Args:
            scores: values of the graph.

        Returns:
            P names of (B,) int64 clusters in [0, M), best first; repetitions are allowed.

        Raises:
            InputError: no export is stated.
        """
        raise InputError(f"router {type(self).__name__}", "one that states route_onnx", "it cannot be exported to ONNX")
