# SPDX-License-Identifier: MIT
"""Accuracy on the probes with the highest scores, if a person handles the others. Axes: B probes."""

import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.decisions.base import Decided
from lightning_modules.metrics.base import Metric


class ConfidentAccuracy(Metric):
    """Accuracy over the share of probes with the highest scores; probes with the score of the last one count too.

    Selective accuracy at a stated coverage (El-Yaniv & Wiener, JMLR 2010). Raises InputError for a wrong coverage.

    Args:
        percent: coverage, a whole number of percent in [1, 100]. At 100 it is the accuracy.
    """

    unit = "percent"

    def __init__(self, percent: int = 90):
        if not (isinstance(percent, int) and 1 <= percent <= 100):
            raise InputError(f"percent = {percent}", "a whole number from 1 to 100", "correct it")
        self.percent = percent
        self.name, self.title = f"accuracy_surest_{percent}", f"Acc. of surest {percent} %"
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, answer: Decided, truth_B: Tensor) -> None:
        self.parts.append((answer.score_B, answer.identity_B == truth_B))

    def compute(self) -> float:
        score, right = (torch.cat(part) for part in zip(*self.parts, strict=True))
        kept = -(-len(score) * self.percent // 100)
        return 100 * float(right[score >= score.topk(kept).values[-1]].double().mean())
