# SPDX-License-Identifier: MIT
"""Decision: who the probe is, given the clusters it was routed to. A pure function of the probe's scores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.onnx_graph import OnnxScores
from lightning_modules.scores import ProbeScores


@dataclass(frozen=True)
class Decided:
    """Answers for B probes.

    Attributes:
        identity_B: (B,) int64 in [0, K).
        score_B: (B,) float32, higher is more certain; what it measures is the decision's to say.
        cluster_B: (B,) int64 cluster in which the answer was found.
    """

    identity_B: Tensor
    score_B: Tensor
    cluster_B: Tensor


class Decision(ABC):
    """Base of all decisions; holds hyper-parameters only, as plain numbers and strings, so that it is saved as JSON.

    Attributes:
        needs_heads: whether trained heads are needed at all.
        needs_route: whether the clusters found by the router matter.
    """

    needs_heads: bool = True
    needs_route: bool = True

    @abstractmethod
    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Names each probe.

        Args:
            scores: of B probes.
            clusters_BP: (B, P) int64 clusters to look into, -1 where none; at least one per probe.

        Returns:
            The answers; equal scores go to the cluster that was routed first, inside it to the lower identity.
        """

    def decide_onnx(self, scores: OnnxScores, clusters: list[str] | None) -> tuple[str, str, str]:
        """Adds what `decide` does to an ONNX graph; a decision that does not state it cannot be exported.

        Args:
            scores: values of the graph.
            clusters: of `Router.route_onnx`; None where `needs_route` is False.

        Returns:
            Names of the (B,) int64 identity, the (B,) float32 score and the (B,) int64 cluster.

        Raises:
            InputError: no export is stated.
        """
        raise InputError(
            f"decision {type(self).__name__}", "one that states decide_onnx", "it cannot be exported to ONNX"
        )
