# SPDX-License-Identifier: MIT
from itertools import combinations

import numpy as np
import pytest

from datamodules.errors import InputError
from experiments.facenet.compare_miners import pair_f1
from experiments.facenet.data import hold_out


def test_pair_f1_by_counting_pairs():
    random = np.random.default_rng(0)
    labels, clusters = random.integers(0, 4, 30), random.integers(0, 5, 30)
    pairs = [(labels[a] == labels[b], clusters[a] == clusters[b]) for a, b in combinations(range(30), 2)]
    right = sum(one and two for one, two in pairs)
    precision = right / sum(two for _, two in pairs)
    recall = right / sum(one for one, _ in pairs)
    assert pair_f1(labels, clusters) == pytest.approx(2 * precision * recall / (precision + recall))
    assert pair_f1(labels, labels + 7) == 1
    assert pair_f1(np.arange(3), np.arange(3)) == 0


def test_held_out_identities_are_held_out_with_all_their_images():
    labels = np.repeat(np.arange(10), [1, 2, 3, 4, 5] * 2)
    train, test = hold_out(labels, 0.3, seed=0)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(set(labels[test])) == 3 and not set(labels[test]) & set(labels[train])
    assert set(hold_out(labels, 0.3, seed=1)[1]) != set(test)
    for share in (0.0, 0.1, 0.9, 1.0):
        with pytest.raises(InputError, match="two identities on either side"):
            hold_out(labels, share, seed=0)
