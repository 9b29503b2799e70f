# SPDX-License-Identifier: MIT
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.kmeans import KMeansPartitioner, fill_empty
from datamodules.partitioners.random import RandomPartitioner
from datamodules.partitioners.single import SinglePartitioner


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def blobs():
    """200 unit vectors around 4 far-apart directions, and which direction each belongs to."""
    random = np.random.default_rng(0)
    truth = random.integers(4, size=200)
    return unit(np.eye(4, 16)[truth] + 0.05 * random.standard_normal((200, 16))), truth


# Partition ------------------------------------------------------------------------------------------------------------

overlapping = Partition(np.array([1, 0, 1, 1]), 2, extra=np.array([[1, 1], [0, 0], [0, 0]]))


def test_members_and_sizes_of_a_disjoint_partition():
    partition = Partition(np.array([2, 0, 2, 1, 0]), 3)
    assert [partition.members(c).tolist() for c in range(3)] == [[1, 4], [3], [0, 2]]
    assert partition.sizes().tolist() == [2, 1, 2] and partition.n_identities == 5 and not partition.overlapping
    assert "5 identities in 3 clusters of 1 to 2 (median 2)" in partition.describe()


def test_members_of_an_overlapping_partition_are_ascending_and_named_once():
    assert [overlapping.members(c).tolist() for c in range(2)] == [[0, 1], [0, 1, 2, 3]]
    assert overlapping.sizes().tolist() == [2, 4] and overlapping.overlapping


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_every_identity_is_a_member_of_its_cluster_and_of_no_other(cluster_of):
    cluster_of = np.unique(cluster_of, return_inverse=True)[1]
    partition = Partition(cluster_of, int(cluster_of.max()) + 1)
    assert sorted(np.concatenate([partition.members(c) for c in range(partition.n_clusters)])) == list(
        range(len(cluster_of))
    )
    assert all((cluster_of[partition.members(c)] == c).all() for c in range(partition.n_clusters))


def test_the_hash_tells_who_belongs_where_and_nothing_else():
    home = np.array([0, 1, 0, 1])
    one = Partition(home, 2)
    assert one.hash() == Partition(home.astype(np.int64), 2, provenance={"seed": 3}).hash()
    others = [
        Partition(1 - home, 2),
        Partition(np.array([0, 1, 1, 1]), 2),
        Partition(np.array([0, 1, 0, 1, 1]), 2),
        Partition(home, 2, extra=np.array([[0, 1]])),
        Partition(np.array([1, 1, 0, 1]), 2, extra=np.array([[0, 0]])),  # the same members as the one before
    ]
    assert len({one.hash(), *(other.hash() for other in others)}) == 6


@pytest.mark.parametrize(
    "home, m, extra",
    [
        ([0, 2, 1], 2, []),
        ([0, -1, 1], 2, []),
        ([0, 0, 0], 2, []),
        ([], 1, []),
        ([[0, 1]], 2, []),
        ([0, 1], 2, [[2, 0]]),
        ([0, 1], 2, [[0, 2]]),
        ([0, 1], 2, [[-1, 0]]),
    ],
)
def test_what_is_no_partition_is_refused(home, m, extra):
    with pytest.raises(InputError):
        Partition(np.array(home), m, extra=np.array(extra))


@pytest.mark.parametrize("partition", [Partition(np.array([1, 0, 1]), 2, provenance={"partitioner": "X"}), overlapping])
def test_a_saved_partition_comes_back(tmp_path, partition):
    partition.save(tmp_path / "p")
    loaded = Partition.load(tmp_path / "p")
    assert np.array_equal(loaded.cluster_of, partition.cluster_of) and loaded.n_clusters == partition.n_clusters
    assert loaded.hash() == partition.hash() and loaded.provenance == partition.provenance
    assert [loaded.members(c).tolist() for c in range(2)] == [partition.members(c).tolist() for c in range(2)]


def damage(folder, how):
    if how == "truncated":
        content = (folder / "partition.npy").read_bytes()
        (folder / "partition.npy").write_bytes(content[:-2])
    elif how == "another":
        np.save(folder / "partition.npy", np.array([0, 1, 1, 1], np.int32))
    elif how == "of another dtype":
        np.save(folder / "partition.npy", np.array([1, 0, 1, 1], np.float32))
    elif how == "extra gone":
        (folder / "partition_extra.npy").unlink()
    elif how == "extra of another shape":
        np.save(folder / "partition_extra.npy", np.zeros((2, 3), np.int32))
    else:
        facts = json.loads((folder / "partition.json").read_text())
        (folder / "partition.json").write_text(json.dumps(facts | how))


@pytest.mark.parametrize(
    "how",
    ["truncated", "another", "of another dtype", "extra gone", "extra of another shape"]
    + [{"n_clusters": value} for value in (0, 3, 10**12, "2", None, 2.5)]
    + [{"hash": value} for value in ("", None)],
    ids=str,
)
def test_a_damaged_partition_is_refused(tmp_path, how):
    overlapping.save(tmp_path / "p")
    damage(tmp_path / "p", how)
    with pytest.raises(InputError):
        Partition.load(tmp_path / "p")


# k-means --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faiss_above", [0, 100_000], ids=["faiss", "scikit-learn"])
def test_both_engines_find_clusters_that_are_plain_to_see(blobs, faiss_above):
    points, truth = blobs
    found = KMeansPartitioner(faiss_above=faiss_above, n_init=5).fit(points, 4, seed=1)
    assert adjusted_rand_score(truth, found.cluster_of) == 1


@pytest.mark.parametrize("faiss_above", [0, 100_000], ids=["faiss", "scikit-learn"])
def test_every_identity_is_in_the_cluster_of_the_nearest_centre(faiss_above):
    # A fixed point of Lloyd's algorithm over all points: an engine that looked at 256 points per cluster would miss it.
    points = unit(np.random.default_rng(3).standard_normal((3000, 4)))
    found = KMeansPartitioner(faiss_above=faiss_above, max_iter=300).fit(points, 4, seed=0).cluster_of
    centres = np.stack([points[found == c].mean(axis=0) for c in range(4)]).astype(np.float64)
    nearest = ((points[:, None].astype(np.float64) - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == found).mean() > 0.995
    inertia = ((points - centres[found]) ** 2).sum()
    assert inertia < 1.02 * KMeans(4, n_init=10, random_state=0).fit(points).inertia_


@given(st.lists(st.integers(0, 5), min_size=6, max_size=20), st.integers(0, 3))
def test_empty_clusters_take_the_farthest_points_that_can_be_spared(cluster_of, seed):
    cluster_of = np.array(cluster_of)
    distance = np.random.default_rng(seed).permutation(len(cluster_of)).astype(float)
    before = cluster_of.copy()
    filled = fill_empty(cluster_of, distance, 6)
    assert np.array_equal(cluster_of, before) and set(filled) == set(range(6))
    moved = np.flatnonzero(filled != before)
    empty = set(range(6)) - set(before)
    assert {int(c) for c in filled[moved]} == empty and len(moved) == len(empty)
    # Whoever stayed although farther away than one that moved was the last of its cluster.
    for stayed in np.flatnonzero(filled == before):
        if len(moved) and distance[stayed] > distance[moved].min():
            assert (filled == before[stayed]).sum() == 1


@pytest.mark.parametrize("arguments", [dict(n_init=0), dict(max_iter=0)])
def test_k_means_refuses_numbers_below_one_before_it_sees_data(arguments):
    with pytest.raises(InputError):
        KMeansPartitioner(**arguments)


# random, single -------------------------------------------------------------------------------------------------------


def test_random_clusters_of_equal_size_differ_by_one_identity_at_most(blobs):
    sizes = RandomPartitioner().fit(blobs[0], 7, seed=0).sizes()
    assert sizes.sum() == 200 and sizes.max() - sizes.min() <= 1


def test_a_random_partition_does_not_look_at_the_embeddings(blobs):
    points, truth = blobs
    one, other = (RandomPartitioner().fit(means, 4, seed=2).cluster_of for means in (points, points[:, ::-1].copy()))
    assert np.array_equal(one, other)
    assert abs(adjusted_rand_score(truth, one)) < 0.05


def test_single_is_one_cluster_whatever_is_asked_for(blobs):
    assert SinglePartitioner().fit(blobs[0], 9).sizes().tolist() == [200]


@pytest.mark.parametrize("m", [0, -1, 201])
def test_more_clusters_than_identities_or_none_are_refused(blobs, m):
    with pytest.raises(InputError, match="1 to 200"):
        KMeansPartitioner().fit(blobs[0], m)


def test_the_provenance_names_maker_arguments_seed_and_what_was_seen(blobs):
    points, _ = blobs
    one = KMeansPartitioner(n_init=2).fit(points, 3, seed=5).provenance
    assert one["partitioner"] == "KMeansPartitioner" and one["seed"] == 5 and one["arguments"]["n_init"] == 2
    assert (
        one["class_means_hash"]
        != KMeansPartitioner(n_init=2).fit(points[::-1], 3, seed=5).provenance["class_means_hash"]
    )
