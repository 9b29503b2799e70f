# SPDX-License-Identifier: MIT
"""Closed-set identification metrics, in percent, as a torchmetrics Metric. Axes: B probes, K identities."""

import torch
from torch import Tensor
from torchmetrics import Metric


class IdentificationMetrics(Metric):
    """Accuracy, and macro precision, recall and F1 over the identities that have test samples.

    Per identity: precision tp / (tp + fp), recall tp / (tp + fn), F1 their harmonic mean, each 0 if its denominator is
    0; macro is the plain mean. Probes wrongly given to an identity without test samples lower the recall of their own.

    The state is three counts per identity, so that 1,000,000 identities take 24 MB; torchmetrics' own multi-class
    metrics go through a K x K matrix.
    """

    full_state_update = False
    hits: Tensor
    answers: Tensor
    samples: Tensor

    def __init__(self, n_identities: int):
        super().__init__(sync_on_compute=False)  # rank 0 alone evaluates
        self.n_identities = n_identities
        for name in ("hits", "answers", "samples"):
            self.add_state(name, torch.zeros(n_identities, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answer_B: Tensor, truth_B: Tensor) -> None:
        """Adds probes: (B,) int64 identities given, and true ones, in [0, K)."""
        self.hits += torch.bincount(truth_B[answer_B == truth_B], minlength=self.n_identities)
        self.answers += torch.bincount(answer_B, minlength=self.n_identities)
        self.samples += torch.bincount(truth_B, minlength=self.n_identities)

    def recall_K(self) -> Tensor:
        """Recall of each identity in percent, (K,) float64; NaN if it has no test sample."""
        return 100 * self.hits.double() / self.samples

    def compute(self) -> dict[str, Tensor]:
        """accuracy, precision, recall, f1, each a float64 percentage."""
        tested = self.samples > 0
        hits, answers, samples = (state[tested].double() for state in (self.hits, self.answers, self.samples))
        precision = hits / answers.clamp_min(1)
        recall = hits / samples
        f1 = 2 * hits / (answers + samples)
        means = {"precision": precision.mean(), "recall": recall.mean(), "f1": f1.mean()}
        return {name: 100 * value for name, value in {"accuracy": hits.sum() / samples.sum(), **means}.items()}
