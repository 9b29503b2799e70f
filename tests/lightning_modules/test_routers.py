# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass, first_occurrences


def test_cluster_mean_goes_to_the_most_similar_centre(parts):
    made = parts()
    centres = np.stack([made.means_KD[made.partition.members(c)].mean(axis=0) for c in range(4)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    expected = (made.unit_probes() @ centres.T).argmax(axis=1)
    assert ClusterMean().route(made.scores()).tolist() == expected[:, None].tolist()


@pytest.mark.parametrize("score", ["cosine", "probability"])
def test_max_output_goes_to_the_head_with_the_highest_score(parts, score):
    made = parts(batch=60)
    as_score = (lambda z: z) if score == "cosine" else (lambda z: softmax(20 * z, axis=1))
    best = np.stack([as_score(made.outputs(c)).max(axis=1) for c in range(4)], axis=1)
    found = MaxOutput(score, scale=20.0).route(made.scores())
    assert found.tolist() == best.argmax(axis=1)[:, None].tolist()


def test_cosine_and_probability_are_two_rules(parts):
    # A head of one class is always certain: probability sends everybody there.
    made = parts(k=9, m=2, cluster_of=np.array([0] * 8 + [1]), batch=60)
    assert MaxOutput("probability").route(made.scores()).unique().tolist() == [1]
    assert MaxOutput("cosine").route(made.scores()).unique().tolist() == [0, 1]


@pytest.mark.parametrize("p", [1, 2, 5, 11, 100])
def test_nearest_class_lists_the_clusters_of_the_nearest_means_once_each(parts, p):
    made = parts()
    found = NearestClass(p).route(made.scores()).tolist()
    for cosines, clusters in zip(made.mean_cosines(), found, strict=True):
        nearest = np.argsort(-cosines)[:p]
        expected = list(dict.fromkeys(made.partition.cluster_of[nearest].tolist()))
        assert clusters[: len(expected)] == expected and set(clusters[len(expected) :]) <= {-1}
    assert max(len([c for c in row if c >= 0]) for row in found) == len(found[0])  # no column is empty


def test_a_probe_is_sent_to_the_home_of_an_identity_with_several_clusters(parts):
    made = parts(extra=[[0, 1], [0, 2], [0, 3]])
    made.probes_BD[:] = made.means_KD[0]
    assert set(NearestClass().route(made.scores()).flatten().tolist()) == {int(made.partition.cluster_of[0])}


@given(st.integers(1, 5).flatmap(lambda p: st.lists(st.lists(st.integers(0, 3), min_size=p, max_size=p), min_size=1)))
def test_first_occurrences_are_those_of_a_dictionary(rows):
    found = first_occurrences(torch.tensor(rows), 4).tolist()
    expected = [list(dict.fromkeys(row)) for row in rows]
    width = max(map(len, expected))
    assert found == [row + [-1] * (width - len(row)) for row in expected]


@pytest.mark.parametrize("build", [lambda: NearestClass(0), lambda: MaxOutput("softmax")])
def test_unusable_arguments_are_refused(build):
    with pytest.raises(ValueError, match="expected"):
        build()


def test_which_routers_need_all_heads():
    assert MaxOutput().needs_heads and not NearestClass().needs_heads and not ClusterMean().needs_heads
