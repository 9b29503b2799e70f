# SPDX-License-Identifier: MIT
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from datamodules.errors import InputError

pytest.importorskip("k_means_constrained")
from datamodules.partitioners import size_constrained  # noqa: E402
from datamodules.partitioners.size_constrained import SizeConstrainedKMeans  # noqa: E402


@settings(max_examples=30)
@given(st.integers(2, 40), st.data())
def test_sizes_lie_within_the_bounds(k, data):
    m = data.draw(st.integers(1, k))
    smallest, largest = data.draw(st.floats(0, 1)), data.draw(st.floats(1, 3))
    points = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 4, (k, 3)).astype(np.float32)
    partition = SizeConstrainedKMeans(smallest, largest).fit(points, m, seed=0)
    sizes = partition.sizes()
    assert len(sizes) == m and sizes.sum() == k
    if 1 < m < k:
        assert sizes.min() >= max(1, np.floor(smallest * k / m)) and sizes.max() <= np.ceil(largest * k / m + 1e-6)


@pytest.mark.parametrize("k, m, bounds", [(100, 3, (16, 50)), (10, 10, (1, 2)), (10, 7, (1, 3)), (274, 3, (45, 137))])
def test_bounds_by_hand(k, m, bounds):
    assert SizeConstrainedKMeans(0.5, 1.5).bounds(k, m) == bounds
    assert SizeConstrainedKMeans(0.7, 1.4).bounds(10, 7) == (1, 2)  # 0.7 x 10 / 7 is 1 but for rounding


def test_equal_sizes_are_the_best_of_all_splits_of_a_line():
    # By brute force over all ways to halve eight points: least sum of distances to the two means that were found.
    points = np.array([0, 1, 2, 3, 4, 100, 101, 102.0])[:, None]
    found = SizeConstrainedKMeans(1, 1, n_init=5).fit(points, 2, seed=0).cluster_of
    cost = {}
    for chosen in itertools.combinations(range(8), 4):
        inside = np.isin(np.arange(8), chosen)
        cost[chosen] = sum(((points[part] - points[part].mean()) ** 2).sum() for part in (inside, ~inside))
    best = min(cost, key=cost.get)
    assert set(np.flatnonzero(found == found[0])) in (set(best), set(range(8)) - set(best))


def test_wide_bounds_give_plain_k_means():
    random = np.random.default_rng(0)
    truth = random.integers(3, size=90)
    points = np.eye(3)[truth] * 5 + random.normal(size=(90, 3)) * 0.3
    found = SizeConstrainedKMeans(0, 3, n_init=5).fit(points, 3, seed=0).cluster_of
    assert adjusted_rand_score(found, KMeans(3, n_init=5, random_state=0).fit_predict(points)) == 1


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e12])
def test_scale_and_place_of_the_points_do_not_matter(scale):
    points = np.random.default_rng(1).normal(size=(40, 5))
    one = SizeConstrainedKMeans(0.5, 1.5, n_init=3).fit(points, 4, seed=3).cluster_of
    other = SizeConstrainedKMeans(0.5, 1.5, n_init=3).fit(points * scale + 2 * scale, 4, seed=3).cluster_of
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "points", [np.zeros((12, 2)), np.repeat(np.eye(2), 6, axis=0)], ids=["one point", "two points"]
)
def test_points_that_coincide_are_dealt_within_the_bounds(points):
    assert sorted(SizeConstrainedKMeans(1, 1).fit(points, 4, seed=0).sizes()) == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "arguments",
    [
        dict(smallest=-0.1),
        dict(smallest=1.1),
        dict(largest=0.9),
        dict(largest=float("inf")),
        dict(n_init=0),
        dict(max_iter=0),
    ],
)
def test_bounds_that_no_partition_can_meet_are_refused(arguments):
    with pytest.raises(InputError):
        SizeConstrainedKMeans(**arguments)


def test_too_many_points_are_refused(monkeypatch):
    monkeypatch.setattr(size_constrained, "MAX_POINTS", 10)
    with pytest.raises(InputError, match="partitioner=kmeans"):
        SizeConstrainedKMeans().fit(np.eye(10), 2)
