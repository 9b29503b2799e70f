# SPDX-License-Identifier: MIT
"""MixMaxSim, the rule of the authors of the paper. Axes: B probes, K identities, D embedding dimension."""

import torch
from torch import Tensor

from datamodules.partitioners.base import Partitioner
from datamodules.partitioners.random import RandomPartitioner
from lightning_modules.baselines.base import Baseline, BaselineTask, Predictor, unit_rows
from lightning_modules.baselines.multi_cognition import class_scores

STEPS = 20  # t = 0 to 19, as in the authors' code
BLOCK = 1024


class MixMaxSim(Baseline):
    """Two candidates: a, the nearest class mean, and b, the answer of max-max over all sub-networks' cosines.

    With S the cosine with the class mean and P the cosine with the trained row: b if P_b > confidence; otherwise a if
    S_a (P_a + 1) / 2 * t / 10 > P_b (S_b + 1) / 2, and b elsewhere. t in 0..19 is the one of highest macro recall on
    the validation samples, the last of equals. `mohammadahmadi1395/MixMaxSim`, read in its source, without its distance
    "euclidean", which depends on the batch. Its sub-networks use a random partition, those of the ISM scenario here.

    Args:
        confidence: P_b above which max-max is trusted; 0.8 is in `evaluate_mms` of that code.
    """

    def __init__(self, confidence: float = 0.8):
        self.confidence = confidence

    def partitioners(self) -> list[Partitioner]:
        return [RandomPartitioner()]

    def fit(self, task: BaselineTask) -> Predictor:
        ((_, heads),) = task.ensembles
        rule = Rule(torch.from_numpy(task.class_means_KD), heads, self.confidence)
        if len(task.val):
            probes_ND, truth_N = unit_rows(task.val)
            found = [rule.candidates(block) for block in torch.split(probes_ND, BLOCK)]
            candidates = [torch.cat([part[i] for part in found]) for i in range(6)]
            recalls = [_macro_recall(rule.choose(candidates, t)[0], truth_N) for t in range(STEPS)]
            rule.t = max(range(STEPS), key=lambda t: (recalls[t], t))
        return rule


class Rule(Predictor):
    """The rule with its constants: `confidence` of `MixMaxSim`, `t` the weight of the nearest class mean in tenths."""

    def __init__(self, class_means_KD: Tensor, heads, confidence: float = 0.8, t: int = 10):
        super().__init__(len(class_means_KD), class_means_KD.numel() + heads.parameters)
        self.class_means_KD, self.heads, self.confidence, self.t = class_means_KD, heads, confidence, t

    def candidates(self, probes_BD: Tensor) -> list[Tensor]:
        """Identities a and b of unit probes, and S_a, P_a, P_b, S_b, (B,) each."""
        similarity_BK = probes_BD @ self.class_means_KD.T
        output_BK = class_scores(probes_BD, self.heads, len(self.class_means_KD))
        (s_a, a), (p_b, b) = similarity_BK.max(1), output_BK.max(1)
        return [a, b, s_a, output_BK.gather(1, a[:, None])[:, 0], p_b, similarity_BK.gather(1, b[:, None])[:, 0]]

    def choose(self, candidates: list[Tensor], t: int) -> tuple[Tensor, Tensor]:
        """Answers and scores of what `candidates` gives, for a value of t: (B,) each."""
        a, b, s_a, p_a, p_b, s_b = candidates
        mean_B, head_B = s_a * (p_a + 1) / 2 * (t / 10), p_b * (s_b + 1) / 2
        take_mean_B = (p_b <= self.confidence) & (mean_B > head_B)
        return torch.where(take_mean_B, a, b), torch.where(take_mean_B, mean_B, head_B)

    def answer(self, probes_BD: Tensor) -> tuple[Tensor, Tensor]:
        return self.choose(self.candidates(probes_BD), self.t)


def _macro_recall(answer_N: Tensor, truth_N: Tensor) -> float:
    samples_K = torch.bincount(truth_N)
    hits_K = torch.bincount(truth_N[answer_N == truth_N], minlength=len(samples_K))
    tested = samples_K > 0
    return float((hits_K[tested].double() / samples_K[tested]).mean())
