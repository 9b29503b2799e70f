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
    """Answers for B probes."""

    identity_B: Tensor  # int64 in [0, K)
    score_B: Tensor  # float32, higher is more certain; each decision says what it measures
    cluster_B: Tensor  # int64 cluster in which the answer was found


@dataclass(frozen=True)
class Ranked:
    """Candidates of B probes, best first."""

    identity_BT: Tensor  # int64 in [0, K), each at most once; -1 fills up if there are fewer
    score_BT: Tensor  # float32, not growing; -inf if there is no candidate
    cluster_BT: Tensor  # int64 cluster in which each was found

    @property
    def best(self) -> Decided:
        """The first candidates, as answers."""
        return Decided(self.identity_BT[:, 0], self.score_BT[:, 0], self.cluster_BT[:, 0])


class Decision(ABC):
    """Base of all decisions: hyper-parameters as plain numbers and strings, fitted ones as numbers or tensors.

    All are arguments of the constructor under the attribute's own name, so that a decision is saved and made again.
    """

    needs_fit: bool = False  # whether `fit` must be called before `decide`
    needs_heads: bool = True  # whether trained heads are needed at all
    needs_route: bool = True  # whether the clusters found by the router matter
    quick: bool = False  # whether the answer is the best row of the cluster; without heads, the nearest class mean

    def fit(
        self, scores: ProbeScores, clusters_BP: Tensor | None, truth_B: Tensor, samples: TrainingSamples
    ) -> "Decision":
        """This decision with its parameters fitted to B validation probes, B may be 0; itself is not changed.

        `clusters_BP` are as for `decide`, or None if `needs_route` is False; `truth_B` is the int64 identity.
        """
        return self

    def refit(self, class_means_KD: Tensor, samples: TrainingSamples) -> "Decision":
        """This fitted decision for other class means and training samples; what `fit` chose stays."""
        return self

    def extended(self, class_means_KD: Tensor, samples: TrainingSamples) -> "Decision":
        """This decision, when people were enrolled after those of `fit`, or got further samples; no refit.

        `class_means_KD` are unit rows of all people, `samples` the new ones, with identities in [0, K).
        """
        return self

    def fits(self, partition: Partition, dim: int) -> bool:
        """Whether what `fit` found was found for such identities; checked when an identifier is made or loaded."""
        return True

    @abstractmethod
    def decide(self, scores: ProbeScores, clusters_BP: Tensor) -> Decided:
        """Names each probe. `clusters_BP` are the int64 clusters to look into, at least one per probe; -1 for none.

        If several scores are the highest up to float32 rounding, it is not defined which one wins.
        """

    def decide_onnx(self, scores: OnnxScores, cluster: str | None) -> tuple[str, str, str]:
        """Adds `decide` to an ONNX graph. `cluster` is that of `Router.route_onnx`; None if `needs_route` is False.

        Returns names of the (B,) int64 identity, the (B,) float32 score and the (B,) int64 cluster. Raises InputError:
        no export is stated.
        """
        got = f"decision {type(self).__name__}"
        raise InputError(got, "one that states decide_onnx", "it cannot be exported to ONNX")

    def rank(self, scores: ProbeScores, clusters_BP: Tensor, most: int) -> Ranked:
        """At most `most` candidates, of which the first is the answer or scores as high.

        A decision that orders nothing else names the answer only.
        """
        decided = self.decide(scores, clusters_BP)
        return Ranked(decided.identity_B[:, None], decided.score_B[:, None], decided.cluster_B[:, None])
