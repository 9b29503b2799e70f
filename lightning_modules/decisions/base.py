# SPDX-License-Identifier: MIT
"""Decision: who the probe is, given the clusters it was routed to. A pure function of the probe's scores."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
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


@dataclass(frozen=True)
class Ranked:
    """Candidates of B probes, best first.

    Attributes:
        identity_BT: (B, T) int64 in [0, K), each at most once; -1 fills up where there are fewer.
        score_BT: (B, T) float32, not growing; -inf where there is no candidate.
    """

    identity_BT: Tensor
    score_BT: Tensor


class Decision(ABC):
    """Base of all decisions: hyper-parameters as plain numbers and strings, fitted ones as numbers or tensors.

    All are arguments of the constructor under the attribute's own name, so that a decision is saved and made again.

    Attributes:
        needs_fit: whether `fit` must be called before `decide`.
        needs_heads: whether trained heads are needed at all.
        needs_route: whether the clusters found by the router matter.
    """

    needs_fit: bool = False
    needs_heads: bool = True
    needs_route: bool = True

    def fit(
        self, scores: ProbeScores, clusters_BP: Tensor | None, truth_B: Tensor, samples: TrainingSamples
    ) -> "Decision":
        """This decision with its fitted parameters; itself is not changed.

        Args:
            scores: of B validation probes; B may be 0.
            clusters_BP: their clusters as for `decide`; None where `needs_route` is False.
            truth_B: (B,) int64 their identity.
        """
        return self

    def fits(self, partition: Partition, dim: int) -> bool:
        """Whether what `fit` found was found for such identities; checked when an identifier is made or loaded."""
        return True

    @abstractmethod
    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Names each probe.

        Args:
            clusters_BP: (B, P) int64 clusters to look into, -1 where none; at least one per probe.

        Returns:
            The answers. Where several scores are the highest up to float32 rounding, it is not defined which one wins.
        """

    def decide_onnx(self, scores: OnnxScores, clusters: list[str] | None) -> tuple[str, str, str]:
        """Adds what `decide` does to an ONNX graph; a decision that does not state it cannot be exported.

        Args:
            clusters: of `Router.route_onnx`; None where `needs_route` is False.

        Returns:
            Names of the (B,) int64 identity, the (B,) float32 score and the (B,) int64 cluster.

        Raises:
            InputError: no export is stated.
        """
        raise InputError(
            f"decision {type(self).__name__}", "one that states decide_onnx", "it cannot be exported to ONNX"
        )

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """The candidates behind the answer, for ranks beyond the first: at most `most`.

        Returns:
            Candidates whose first is the answer or scores as high; a decision that orders nothing else names the
            answer only.
        """
        decided = self.decide(scores, clusters_BP)
        return Ranked(decided.identity_B[:, None], decided.score_B[:, None])
