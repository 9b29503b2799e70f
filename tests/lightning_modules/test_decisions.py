# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.nearest_mean import NearestMean


def best_of(made, b, clusters):
    """Identity, output and cluster of the highest output of probe b inside some clusters."""
    found = [
        (made.outputs(c)[b].max(), c, int(made.partition.members(c)[made.outputs(c)[b].argmax()])) for c in clusters
    ]
    score, cluster, identity = max(found, key=lambda one: one[0])
    return identity, score, cluster


@pytest.mark.parametrize("width", [1, 2, 4])
def test_argmax_takes_the_highest_output_inside_the_routed_clusters(parts, width):
    made = parts()
    random = np.random.default_rng(1)
    routed = np.stack([random.permutation(4)[:width] for _ in range(17)])
    routed[::3, 1:] = -1
    decided = Argmax().decide(made.scores(), torch.from_numpy(routed))
    for b, clusters in enumerate(routed):
        identity, score, cluster = best_of(made, b, [c for c in clusters if c >= 0])
        assert (int(decided.identity_B[b]), int(decided.cluster_B[b])) == (identity, cluster)
        assert float(decided.score_B[b]) == pytest.approx(score, abs=1e-6)


def test_nearest_mean_is_a_brute_force_search_and_looks_at_no_route(parts):
    made = parts()
    cosines = made.mean_cosines()
    for routed in (None, torch.full((17, 1), 2)):
        decided = NearestMean().decide(made.scores(), routed)
        assert decided.identity_B.tolist() == cosines.argmax(axis=1).tolist()
        assert decided.cluster_B.tolist() == made.partition.cluster_of[cosines.argmax(axis=1)].tolist()
        np.testing.assert_allclose(decided.score_B, cosines.max(axis=1), atol=1e-6)


def test_what_decisions_need():
    assert Argmax().needs_heads and Argmax().needs_route
    assert not NearestMean().needs_heads and not NearestMean().needs_route
