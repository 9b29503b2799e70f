# SPDX-License-Identifier: MIT
import faiss
import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.preprocessing import normalize

from lightning_modules import scores as module
from lightning_modules.scores import cluster_centres

EXTRA = [[0, 1], [0, 2], [5, 3]]  # identities that belong to more than one cluster
SHAPES = [
    dict(),
    dict(m=1),
    dict(k=5, m=5, cluster_of=np.array([3, 1, 0, 4, 2])),
    dict(extra=EXTRA),
    dict(rows_per_class=3),
]


@pytest.fixture(params=SHAPES, ids=["disjoint", "m = 1", "m = K", "overlapping", "3 rows a class"])
def made(request, parts):
    return parts(**request.param)


@pytest.fixture(params=[1, 30, 1 << 25], ids=lambda n: f"{n} at a time")
def block(request, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", request.param)


def best_by_hand(made, cluster):
    """(B,) highest output of a head and (B,) its identity."""
    outputs = made.outputs(cluster)
    return outputs.max(axis=1), made.partition.members(cluster)[outputs.argmax(axis=1)]


@pytest.mark.parametrize("p", [1, 3, 11, 50])
def test_the_nearest_class_means_are_those_of_faiss(parts, block, p):
    made = parts()
    index = faiss.IndexFlatIP(6)
    index.add(made.means_KD)
    cosines, identities = index.search(made.unit_probes().astype(np.float32), min(p, 11))
    found, place = made.scores().nearest_classes(p)
    assert place.tolist() == identities.tolist()
    np.testing.assert_allclose(found, cosines, atol=1e-6)


def test_of_equal_class_means_any_is_the_nearest_and_all_come_before_the_others(parts, block):
    made = parts()
    made.means_KD[[2, 5, 9]] = made.means_KD[2]
    made.probes_BD[:] = made.means_KD[2]
    assert set(made.scores().nearest_classes(1)[1].unique().tolist()) <= {2, 5, 9}
    assert all(sorted(row) == [2, 5, 9] for row in made.scores().nearest_classes(3)[1].tolist())


def test_the_best_class_of_every_head(made, block):
    output, identity = made.scores().head_best
    for cluster in range(made.partition.n_clusters):
        expected, who = best_by_hand(made, cluster)
        np.testing.assert_allclose(output[:, cluster], expected, atol=1e-6)
        assert identity[:, cluster].tolist() == who.tolist()


@pytest.mark.parametrize("all_heads_first", [False, True])
def test_the_best_class_of_one_head_per_probe(made, block, all_heads_first):
    scores = made.scores()
    if all_heads_first:
        assert scores.head_best is not None
    clusters = np.random.default_rng(0).integers(-1, made.partition.n_clusters, size=len(scores))
    output, identity = scores.best_in_cluster(torch.from_numpy(clusters))
    for b, cluster in enumerate(clusters):
        if cluster < 0:
            assert output[b] == -np.inf and identity[b] == -1
        else:
            expected, who = best_by_hand(made, cluster)
            assert output[b] == pytest.approx(expected[b], abs=1e-6) and identity[b] == who[b]


def test_only_the_heads_that_are_routed_to_are_evaluated(parts, monkeypatch):
    made, evaluated = parts(), []
    scores = made.scores()
    in_head = module.ProbeScores._in_head
    monkeypatch.setattr(
        module.ProbeScores,
        "_in_head",
        lambda self, c, which: (evaluated.append((c, len(which))), in_head(self, c, which))[1],
    )
    scores.best_in_cluster(torch.tensor([2] * 5 + [0] * 12))
    assert sorted(evaluated) == [(0, 12), (2, 5)]


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_log_odds_are_those_of_softmax_inside_each_head(made, block, scale):
    # log p - log(1 - p) of the best class, from its definition in float64.
    found = made.scores().head_log_odds(scale)
    for cluster in range(made.partition.n_clusters):
        z = np.sort(scale * made.outputs(cluster), axis=1)
        if z.shape[1] == 1:
            assert (found[:, cluster] == np.inf).all()
        else:
            log_p = z[:, -1] - logsumexp(z, axis=1)
            log_rest = logsumexp(z[:, :-1], axis=1) - logsumexp(z, axis=1)
            np.testing.assert_allclose(found[:, cluster], log_p - log_rest, atol=scale * 2e-6)


def test_centres_are_unit_means_of_the_members(made):
    members = [made.partition.members(c) for c in range(made.partition.n_clusters)]
    centres = normalize(np.stack([made.means_KD[m].astype(np.float64).mean(axis=0) for m in members]))
    np.testing.assert_allclose(cluster_centres(torch.from_numpy(made.means_KD), made.partition), centres, atol=1e-6)
    np.testing.assert_allclose(made.scores().centre_cosine_BM, made.unit_probes() @ centres.T, atol=1e-6)


def test_the_length_of_a_probe_does_not_matter(parts):
    made = parts()
    one, other = made.scores(), made.scores()
    other.probes_BD = torch.nn.functional.normalize(torch.from_numpy(made.probes_BD) * 1e4)
    torch.testing.assert_close(one.head_best[0], other.head_best[0])


def test_rows_of_heads_lie_cluster_by_cluster(made):
    heads = made.heads()
    assert heads.starts == (0, *np.cumsum(made.partition.sizes() * made.rows_per_class).tolist())
    for c, (start, stop) in enumerate(zip(heads.starts[:-1], heads.starts[1:], strict=True)):
        members = np.repeat(made.partition.members(c), made.rows_per_class)
        assert heads.identity_S[start:stop].tolist() == members.tolist()
        assert np.array_equal(heads.rows_SD[start:stop], made.rows[c])


def test_no_probes_have_no_scores(parts):
    scores = parts().scores(slice(0, 0))
    assert len(scores) == 0 and scores.nearest_classes(2)[1].shape == (0, 2)
    assert scores.best_in_cluster(torch.zeros(0, dtype=torch.long))[1].shape == (0,)
    assert scores.head_best[0].shape == (0, 4) and scores.head_log_odds(1.0).shape == (0, 4)
