# SPDX-License-Identifier: MIT
"""Label mapping. Axes: B probes, K identities, L outputs of all digits together, D dimension."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Infeasible, Predictor
from lightning_modules.baselines.coded import count, trained_head
from lightning_modules.losses.base import ClassificationLoss

KINDS = ("coprime", "mixed_radix")


class LabelMapping(Baseline):
    """Digits of a number per identity; a probe is the identity of the highest summed log-probability of its digits.

    Zhang et al., arXiv 1806.02507, ICDMW 2018: only its abstract was read, the number-theoretic construction is ours.

    "coprime": digits i mod n_1 .. i mod n_k for pairwise coprime n_j >= sqrt(K), by which two identities agree in at
    most one digit (Chinese remainder theorem). "mixed_radix": the digits of i in base ceil(K^(1/k)). Numbers are dealt
    to identities at random. All digits are outputs of one network, each with a softmax of its own.

    Args:
        kind: "coprime" or "mixed_radix".
        digits: k, at least 2.
        hidden: units shared by all digits; 0 for linear digits.
    """

    def __init__(self, kind: str = "coprime", digits: int = 6, hidden: int = 1024):
        if kind not in KINDS or digits < 2 or hidden < 0:
            got = f"got kind {kind!r}, digits {digits}, hidden {hidden}"
            raise ValueError(f"{got}; expected one of {KINDS}, at least 2, at least 0")
        self.kind, self.digits, self.hidden = kind, digits, hidden

    def fit(self, task: BaselineTask) -> Predictor:
        k = task.n_identities
        if k < 2:
            raise Infeasible("a single identity has no digits")
        numbers_K = torch.randperm(k, generator=task.generator())
        if self.kind == "coprime":
            sizes = coprime_sizes(k, self.digits)
            digit_KJ = torch.stack([numbers_K % n for n in sizes], 1)
        else:
            base = radix(k, self.digits)
            digit_KJ = torch.stack([numbers_K // base**j % base for j in range(self.digits)], 1)
            sizes = (digit_KJ.amax(0) + 1).tolist()
        head = trained_head(task, sum(sizes), self.hidden, _DigitsLoss(digit_KJ, sizes))
        return ByScore(lambda probes_BD: decode(head(probes_BD), digit_KJ, sizes), k, count(head) + digit_KJ.numel())


class _DigitsLoss(ClassificationLoss):
    """Cross-entropy of each digit, summed."""

    unit_rows = False
    digit_KJ: Tensor

    def __init__(self, digit_KJ: Tensor, sizes: list[int]):
        super().__init__()
        self.register_buffer("digit_KJ", digit_KJ)
        self.sizes = sizes

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        digit_BJ = self.digit_KJ[target_B]
        parts = cosine_BC.split(self.sizes, 1)
        losses = [F.cross_entropy(part, digit_BJ[:, j], reduction="none") for j, part in enumerate(parts)]
        return torch.stack(losses).sum(0)


def decode(output_BL: Tensor, digit_KJ: Tensor, sizes: list[int]) -> Tensor:
    """Summed log-probability of the digits of each identity: (B, K) float32, at most 0.

    `output_BL` has the outputs of a digit in succession; `sizes` are the values of each of the J digits and sum to L.
    """
    parts = [F.log_softmax(part, 1) for part in output_BL.split(sizes, 1)]
    total_BK = parts[0][:, digit_KJ[:, 0]]
    for j, part in enumerate(parts[1:], start=1):
        total_BK = total_BK + part[:, digit_KJ[:, j]]
    return total_BK


def coprime_sizes(n_identities: int, count: int) -> list[int]:
    """The smallest pairwise coprime whole numbers from ceil(sqrt(K)) on, at least 2.

    >>> coprime_sizes(100, 4)
    [10, 11, 13, 17]
    """
    sizes: list[int] = []
    candidate = max(2, math.isqrt(n_identities - 1) + 1)
    while len(sizes) < count:
        if all(math.gcd(candidate, other) == 1 for other in sizes):
            sizes.append(candidate)
        candidate += 1
    return sizes


def radix(n_identities: int, digits: int) -> int:
    """The smallest base of at least 2 in which so many digits count to K.

    >>> radix(100, 2), radix(101, 2)
    (10, 11)
    """
    base = max(2, int(n_identities ** (1 / digits)) - 1)
    while base**digits < n_identities:
        base += 1
    return base
