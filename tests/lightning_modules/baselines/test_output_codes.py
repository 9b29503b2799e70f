# SPDX-License-Identifier: MIT
"""Output codes against scikit-learn's `OutputCodeClassifier`, and against loops over words and bits."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.multiclass import OutputCodeClassifier

from lightning_modules.baselines.base import Infeasible, unit_rows
from lightning_modules.baselines.output_codes import OutputCodes, best_book, bit_weights, decode, least_distance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "bits"), [("dense", 50), ("sparse", 75)])
def test_a_book_has_the_stated_bits_and_both_signs_in_each(kind, bits):
    book = best_book(32, kind, 3, generator())
    assert book.shape == (32, bits) and set(book.unique().tolist()) == ({-1, 1} if kind == "dense" else {-1, 0, 1})
    assert (book.amax(0) == 1).all() and (book.amin(0) == -1).all()
    zeros = float((book == 0).float().mean())
    assert zeros == 0 if kind == "dense" else abs(zeros - 0.5) < 0.05


def test_distance_is_hamming_s_and_the_best_of_the_books_is_taken():
    book = best_book(20, "dense", 1, generator(3))
    hamming = pairwise_distances(book.numpy() > 0, metric="hamming") * book.shape[1]
    assert least_distance(book) == pytest.approx(hamming[~np.eye(20, dtype=bool)].min())
    many = [best_book(20, "dense", 1, g) for g in [generator(5)] for _ in range(8)]
    assert least_distance(best_book(20, "dense", 8, generator(5))) == max(map(least_distance, many))


def test_linear_decoding_is_the_nearest_word_of_scikit_learn():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((90, 6)), np.arange(90) % 9
    theirs = OutputCodeClassifier(LogisticRegression(), code_size=3, random_state=0).fit(x, y)
    book = np.where(theirs.code_book_ > 0, 1.0, -1.0).astype("f4")
    theirs.code_book_ = book
    # Decision values of its estimators, which it compares with the words by Euclidean distance.
    output = np.stack([e.decision_function(x) if hasattr(e, "coef_") else e.predict(x) for e in theirs.estimators_], 1)
    ours = decode(torch.from_numpy(output).float(), torch.from_numpy(book), "linear").argmax(1)
    assert ours.tolist() == theirs.predict(x).tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_decoding_is_the_sum_over_words_and_bits(weighted):
    book, output = best_book(7, "sparse", 1, generator()), torch.randn(5, 43, generator=generator(1)) * 3
    weight = torch.rand(7, 43, generator=generator(2)) if weighted else torch.ones(7, 43)
    found = decode(output, book, "loss", weight if weighted else None)
    for b in range(5):
        for k in range(7):
            cost = sum(
                float(weight[k, j]) * math.log1p(math.exp(-float(book[k, j]) * float(output[b, j])))
                for j in range(43)
            )  # fmt: skip
            assert float(found[b, k]) == pytest.approx(-cost, rel=1e-4)


def test_weights_are_the_shares_of_samples_that_a_bit_gets_right():
    book = torch.tensor([[1.0, -1, 0], [-1, 1, 1]])
    output = torch.tensor([[2.0, 1, 5], [1, -1, 5], [-1, -1, 1], [1, -1, -1]])
    # Identity 0: bit 0 right twice, bit 1 once. Identity 1: bits 0 and 2 once, bit 1 never.
    expected = torch.tensor([[2 / 3, 1 / 3, 0], [0.5, 0, 0.5]])
    torch.testing.assert_close(bit_weights(output, torch.tensor([0, 0, 1, 1]), book), expected)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("decoding", ["linear", "loss", "loss_weighted"])
def test_people_far_apart_are_named(kind, decoding, task):
    made = task(noise=0.3, epochs=60)
    predictor = OutputCodes(kind, decoding=decoding, hidden=64).fit(made)
    rows, truth = unit_rows(made.val)
    assert (predictor.decide(rows).identity_B == truth).float().mean() > 0.9


def test_one_identity_has_no_code(task):
    with pytest.raises(Infeasible, match="single identity"):
        OutputCodes().fit(task(k=1))
