# SPDX-License-Identifier: MIT
"""Label mapping: the Chinese remainder theorem checked pair by pair, decoding by loops."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.baselines.base import unit_rows
from lightning_modules.baselines.label_mapping import LabelMapping, coprime_sizes, decode, radix


@given(st.integers(2, 400), st.integers(2, 5))
def test_two_identities_agree_in_at_most_one_remainder(k, count):
    sizes = coprime_sizes(k, count)
    assert all(math.gcd(a, b) == 1 for a, b in itertools.combinations(sizes, 2)) and min(sizes) ** 2 >= k
    words = [tuple(i % n for n in sizes) for i in range(k)]
    agreeing = max(sum(x == y for x, y in zip(a, b, strict=True)) for a, b in itertools.combinations(words[:60], 2))
    assert agreeing <= 1


@given(st.integers(2, 10**6), st.integers(2, 6))
def test_the_radix_is_the_smallest_that_counts_so_far(k, digits):
    base = radix(k, digits)
    assert base**digits >= k and (base == 2 or (base - 1) ** digits < k)


def test_decoding_is_the_product_of_the_digits_probabilities():
    output, digits = torch.randn(4, 5), torch.tensor([[0, 1], [1, 0], [1, 2]])
    found = decode(output, digits, [2, 3]).exp()
    for b in range(4):
        first, second = output[b, :2].softmax(0), output[b, 2:].softmax(0)
        expected = [float(first[i] * second[j]) for i, j in digits.tolist()]
        assert found[b].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "digits"), [("coprime", 5), ("mixed_radix", 2), ("mixed_radix", 3)])
def test_people_far_apart_are_named(kind, digits, task):
    made = task(noise=0.3, epochs=60)
    predictor = LabelMapping(kind, digits, hidden=64).fit(made)
    rows, truth = unit_rows(made.val)
    assert (predictor.decide(rows).identity_B == truth).float().mean() > 0.9
    outputs = sum(coprime_sizes(30, 5)) if kind == "coprime" else {2: 6 + 5, 3: 4 + 4 + 2}[digits]
    assert predictor.parameters == 64 * 12 + outputs * 64 + 30 * digits
