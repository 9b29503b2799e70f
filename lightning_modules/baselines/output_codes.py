# SPDX-License-Identifier: MIT
"""Error-correcting output codes. Axes: N samples, B probes, K identities, L bits, D dimension."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.baselines.base import Baseline, BaselineTask, ByScore, Infeasible, Predictor, unit_rows
from lightning_modules.baselines.coded import count, trained_head
from lightning_modules.losses.base import ClassificationLoss

KINDS, DECODINGS = ("dense", "sparse"), ("linear", "loss", "loss_weighted")
BITS_PER_LOG2 = {"dense": 10, "sparse": 15}  # Allwein, Schapire & Singer, JMLR 1, 2000, section 6
ROWS_COMPARED = 4096
BLOCK = 4096


class OutputCodes(Baseline):
    """A random code word of L bits per identity; L binary classifiers; the identity of the closest word.

    Dietterich & Bakiri, JAIR 2, 1995. Dense words have L = ceil(10 log2 K) bits of +-1; sparse ones ceil(15 log2 K) of
    -1, 0, +1 with probabilities 1/4, 1/2, 1/4, where a 0 leaves the identity out of that bit's training (Allwein,
    Schapire & Singer, JMLR 1, 2000). Of several books the one with the largest minimum distance between two words is
    taken. All bits are logistic outputs of one network.

    Decoding, with f_j the output of bit j and M the book: "linear", the highest sum of M_ij f_j; "loss", the lowest sum
    of log(1 + e^(-M_ij f_j)) (Allwein et al., eq. 8; a 0 costs log 2); "loss_weighted", the same sum with weights that
    sum to 1 for each identity and are proportional to the share of its training samples that bit j gets right
    (Escalera, Pujol & Radeva, JMLR 11, 2010).

    Args:
        kind: "dense" or "sparse".
        books: random books to choose from, at least 1.
        decoding: "linear", "loss" or "loss_weighted".
        hidden: units shared by all bits; 0 for linear bits.
    """

    def __init__(self, kind: str = "dense", books: int = 10, decoding: str = "loss_weighted", hidden: int = 1024):
        if kind not in KINDS or decoding not in DECODINGS or books < 1 or hidden < 0:
            got = f"got kind {kind!r}, decoding {decoding!r}, books {books}, hidden {hidden}"
            raise ValueError(f"{got}; expected one of {KINDS}, one of {DECODINGS}, at least 1, at least 0")
        self.kind, self.books, self.decoding, self.hidden = kind, books, decoding, hidden

    def fit(self, task: BaselineTask) -> Predictor:
        if task.n_identities < 2:
            raise Infeasible("a single identity has no code")
        book_KL = best_book(task.n_identities, self.kind, self.books, task.generator())
        head = trained_head(task, book_KL.shape[1], self.hidden, _CodeLoss(book_KL))
        weight_KL = None
        if self.decoding == "loss_weighted":
            rows_ND, labels_N = unit_rows(task.train)
            with torch.no_grad():
                output_NL = torch.cat([head(block) for block in torch.split(rows_ND, BLOCK)])
            weight_KL = bit_weights(output_NL, labels_N, book_KL)
        parameters = count(head) + book_KL.numel()
        return ByScore(lambda x_BD: decode(head(x_BD), book_KL, self.decoding, weight_KL), len(book_KL), parameters)


class _CodeLoss(ClassificationLoss):
    """Logistic loss of each bit, summed; bits that are 0 in the true word cost nothing."""

    unit_rows = False
    book_KL: Tensor

    def __init__(self, book_KL: Tensor):
        super().__init__()
        self.register_buffer("book_KL", book_KL)

    def forward(self, cosine_BC: Tensor, target_B: Tensor) -> Tensor:
        word_BL = self.book_KL[target_B]
        return (F.softplus(-word_BL * cosine_BC) * word_BL.abs()).sum(1)


def best_book(n_identities: int, kind: str, books: int, generator: torch.Generator) -> Tensor:
    """The best of several random books: (K, L) float32 of -1, 0, +1, K >= 2; every bit has both signs."""
    bits = math.ceil(BITS_PER_LOG2[kind] * math.log2(n_identities))
    return max((_book(n_identities, bits, kind, generator) for _ in range(books)), key=least_distance)


def _book(n_identities: int, bits: int, kind: str, generator: torch.Generator) -> Tensor:
    sign = torch.randint(0, 2, (n_identities, bits), generator=generator) * 2 - 1
    if kind == "sparse":
        sign = sign * torch.randint(0, 2, (n_identities, bits), generator=generator)
    for column in ((sign.amax(0) < 1) | (sign.amin(0) > -1)).nonzero()[:, 0]:
        pair = torch.randperm(n_identities, generator=generator)[:2]
        sign[pair, column] = torch.tensor([1, -1])
    return sign.float()


def least_distance(book_KL: Tensor) -> float:
    """The smallest distance of two words, sum over bits of (1 - a b) / 2: Hamming's, but a 0 counts half.

    The words of the first 4,096 identities are compared with all K >= 2.
    """
    product = book_KL[:ROWS_COMPARED] @ book_KL.T
    product.fill_diagonal_(-torch.inf)
    return float((book_KL.shape[1] - product.max()) / 2)


def bit_weights(output_NL: Tensor, labels_N: Tensor, book_KL: Tensor) -> Tensor:
    """Share of an identity's samples that each bit gets right, divided by the sum over its bits; 0 for a 0 of the word.

    (K, L), equal weights in a row if every bit is wrong for every sample.
    """
    right_NL = (output_NL * book_KL[labels_N] > 0).float()
    right_KL = torch.zeros_like(book_KL).index_add_(0, labels_N, right_NL)
    right_KL /= torch.bincount(labels_N, minlength=len(book_KL))[:, None]
    weight_KL = torch.where(right_KL.sum(1, keepdim=True) > 0, right_KL, book_KL.abs())
    return weight_KL / weight_KL.sum(1, keepdim=True)


def decode(output_BL: Tensor, book_KL: Tensor, decoding: str, weight_KL: Tensor | None = None) -> Tensor:
    """Scores of all identities by a decoding of `OutputCodes`, higher is closer: (B, K) float32."""
    if decoding == "linear":
        return output_BL @ book_KL.T
    weight_KL = torch.ones_like(book_KL) if weight_KL is None else weight_KL
    for_plus_BL, for_minus_BL = F.softplus(-output_BL), F.softplus(output_BL)
    cost_BK = for_plus_BL @ (weight_KL * (book_KL > 0)).T + for_minus_BL @ (weight_KL * (book_KL < 0)).T
    return -(cost_BK + math.log(2) * (weight_KL * (book_KL == 0)).sum(1))
