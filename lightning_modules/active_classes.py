# SPDX-License-Identifier: MIT
"""Which classes compete in a training step: all of them, or few that change from step to step.

Axes: B batch, C classes of the sub-network, A of them active, D embedding dimension.
"""

import torch
from torch import Tensor


class ActiveClasses:
    """Chooses the classes whose rows take part in the softmax of a step. The others are neither read nor changed.

    Attributes:
        needs_rows: whether `choose` looks at embeddings or class rows; such a choice cannot be sharded over ranks.
    """

    needs_rows: bool = False

    def choose(
        self, classes: int, target_B: Tensor, embedding_BD: Tensor, weight_CD: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """The active classes of a step: (A,) int64, ascending, each once; None for all.

        Args:
            target_B: true classes, which must be among the chosen.
            embedding_BD: of unit length.
            weight_CD: class rows of any length; those of this rank alone if the head is sharded.
            generator: seeded by (seed, sub-network, epoch, step).
        """
        return None


class EveryClass(ActiveClasses):
    """All classes compete in every step."""


class SampledClasses(ActiveClasses):
    """Partial FC: the batch's own classes and a random share of the others (An et al., CVPR 2022, section 3.2).

    A = int(sample_rate C). Each class gets a score from U(0, 1), each true class a higher one, and the A highest are
    active, as in the published code. If the batch has more than A true classes, these alone are active. The published
    code draws from each rank's own classes; here all ranks draw the same A of C, so that any number of ranks trains the
    same weights, and the loads of the ranks differ by chance.

    Args:
        sample_rate: share of the classes in [0, 1]; 1 is the full softmax, 0 leaves only the classes of the batch.
            Published configurations use 0.1 to 0.3.
    """

    def __init__(self, sample_rate: float = 0.1):
        if not 0 <= sample_rate <= 1:
            raise ValueError(f"got sample_rate {sample_rate}; expected a share of the classes in [0, 1]")
        self.sample_rate = sample_rate

    def choose(
        self, classes: int, target_B: Tensor, embedding_BD: Tensor, weight_CD: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        if self.sample_rate == 1:
            return None
        positive_A, size = target_B.unique(), int(self.sample_rate * classes)
        if len(positive_A) >= size:
            return positive_A
        score_C = torch.rand(classes, generator=generator)
        score_C[positive_A.cpu()] = 2.0
        return score_C.topk(size, sorted=False).indices.sort().values.to(target_B.device)
