# SPDX-License-Identifier: MIT
"""Losses compared with plain Python in double precision, one sample at a time.

Axes: B batch, C classes, D embedding dimension.
"""

import math

import numpy as np
import pytest
import torch

from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split


def by_loop(loss, reference, cosines, targets):
    """Asserts that a loss equals a formula in value, and its gradient the formula's finite differences.

    Args:
        loss: maps (B, C) float64 and (B,) int64 to (B,).
        reference: maps a list of C floats and the true class to a float.
        cosines: (B, C) nested lists.
        targets: B integers.
    """
    cosine_BC = torch.tensor(cosines, dtype=torch.float64, requires_grad=True)
    loss_B = loss(cosine_BC, torch.tensor(targets))
    (gradient_BC,) = torch.autograd.grad(loss_B.sum(), cosine_BC)
    step = 1e-6
    for b, (row, target) in enumerate(zip(cosines, targets, strict=True)):
        assert loss_B[b].item() == pytest.approx(reference(row, target), rel=1e-9, abs=1e-9)
        for c in range(len(row)):
            up, down = (row[:c] + [row[c] + sign * step] + row[c + 1 :] for sign in (1, -1))
            slope = (reference(up, target) - reference(down, target)) / (2 * step)
            assert gradient_BC[b, c].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def softmax_loss(logits, target):
    """-log softmax by hand."""
    highest = max(logits)
    return highest + math.log(sum(math.exp(z - highest) for z in logits)) - logits[target]


def made_up_cosines(batch=12, classes=5, seed=0, reach=0.98):
    generator = torch.Generator().manual_seed(seed)
    cosine_BC = torch.empty(batch, classes, dtype=torch.float64).uniform_(-reach, reach, generator=generator)
    return cosine_BC.tolist(), [b % classes for b in range(batch)]


@pytest.fixture(scope="session")
def agrees():
    return by_loop


@pytest.fixture(scope="session")
def cross_entropy():
    return softmax_loss


@pytest.fixture(scope="session")
def cosines():
    return made_up_cosines


@pytest.fixture
def samples():
    """`samples(lengths, labels)`: training samples of embeddings of such lengths."""

    def make(lengths, labels):
        rows = np.zeros((len(lengths), 3), np.float32)
        rows[:, 1] = lengths
        return TrainingSamples(rows, Split(np.arange(len(rows)), np.array(labels, np.int32)))

    return make
