# SPDX-License-Identifier: MIT
"""Adding and removing people: what must come out can be told from class means, rows and names."""

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.enrolment import home_clusters, with_head, with_identities, without_identities
from lightning_modules.identifier import Identifier
from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads

D, M, K = 8, 3, 15
NAMES = tuple(f"person {i}" for i in range(K))


def unit(rows):
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(rows), dtype=torch.float32))


def make(router="nearest", rows_per_class=1, length=1.0, extra=(), decision=None, m=M):
    random = np.random.default_rng(3)
    partition = Partition(np.arange(K) % m, m, np.array(extra, np.int32).reshape(-1, 2))
    means = unit(random.standard_normal((K, D)))
    near = means + 0.1 * torch.from_numpy(random.standard_normal((K, D)).astype(np.float32))
    rows = [length * unit(near[partition.members(c)]).repeat_interleave(rows_per_class, 0) for c in range(m)]
    routers = {"nearest": NearestClass(), "mean": ClusterMean(), "max": MaxOutput(), None: None}
    return Identifier(NAMES, means, partition, decision or Argmax(), routers[router], Heads.pack(partition, rows))


def rows_of(identifier, name):
    """The class rows of a person in every cluster, by cluster."""
    index = identifier.identities.index(name)
    found = {}
    for cluster in range(identifier.partition.n_clusters):
        span = slice(identifier.heads.starts[cluster], identifier.heads.starts[cluster + 1])
        rows = identifier.heads.rows_SD[span][identifier.heads.identity_S[span] == index]
        if len(rows):
            found[cluster] = rows
    return found


NEW = unit(np.random.default_rng(8).standard_normal((4, D)))
NEW_NAMES = [f"new {i}" for i in range(4)]


@pytest.mark.parametrize("router", ["nearest", "mean", "max"])
@pytest.mark.parametrize("rows_per_class", [1, 2])
def test_the_class_mean_becomes_a_row_of_the_cluster_the_router_names(router, rows_per_class):
    before = make(router, rows_per_class)
    after = with_identities(before, NEW_NAMES, 5 * NEW)
    clusters = before.route(before.scores(NEW))[:, 0]
    for name, mean_D, cluster in zip(NEW_NAMES, NEW, clusters.tolist(), strict=True):
        assert list(rows_of(after, name)) == [cluster]
        torch.testing.assert_close(rows_of(after, name)[cluster], mean_D.expand(rows_per_class, D))
    for name in NAMES:
        assert all(torch.equal(rows_of(after, name)[c], rows) for c, rows in rows_of(before, name).items())
    found = after.identify(NEW)
    if router != "mean":  # the centre moves with who is added
        assert found.identity == tuple(NEW_NAMES)
        np.testing.assert_allclose(found.score, 1, atol=1e-5)
    assert len(before.identities) == K  # the old one stays as it is


def test_nearest_class_in_the_old_means_decides_the_home():
    before = make()
    nearest = (NEW.numpy() @ before.class_means_KD.numpy().T).argmax(1)
    assert home_clusters(before, NEW).tolist() == before.partition.cluster_of[nearest].tolist()


def test_without_a_router_the_nearest_centre_does():
    before = make(None, decision=NearestMean())
    means = before.class_means_KD.numpy()
    centres = np.stack([means[np.arange(K) % M == c].mean(0) for c in range(M)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    assert home_clusters(before, NEW).tolist() == (NEW.numpy() @ centres.T).argmax(1).tolist()


def test_rows_that_keep_their_length_get_one_of_the_usual_length():
    after = with_identities(make(length=7.5), NEW_NAMES, NEW)
    for name in NEW_NAMES:
        for rows in rows_of(after, name).values():
            torch.testing.assert_close(rows.norm(dim=1), torch.full((1,), 7.5))


@pytest.mark.parametrize("router, rows_per_class", [("nearest", 1), ("max", 2)])
def test_removing_those_who_were_added_gives_the_old_identifier(router, rows_per_class):
    before = make(router, rows_per_class, extra=[(0, 2), (4, 0)])
    after = without_identities(with_identities(before, NEW_NAMES, NEW), NEW_NAMES)
    assert after.identities == before.identities and after.partition.hash() == before.partition.hash()
    assert torch.equal(after.class_means_KD, before.class_means_KD)
    assert torch.equal(after.heads.rows_SD, before.heads.rows_SD) and after.heads.starts == before.heads.starts


def test_who_is_removed_is_never_named_and_the_others_keep_their_rows():
    before = make(extra=[(0, 2), (4, 0), (5, 1)])
    gone = ["person 4", "person 0", "person 9"]
    after = without_identities(before, gone)
    assert set(after.identities) == set(NAMES) - set(gone)
    probes = torch.from_numpy(np.random.default_rng(0).standard_normal((200, D)).astype(np.float32))
    assert not set(after.identify(probes).identity) & set(gone)
    for name in after.identities:
        assert {c: rows.tolist() for c, rows in rows_of(after, name).items()} == {
            c: rows.tolist() for c, rows in rows_of(before, name).items()
        }


def test_a_cluster_that_nobody_is_left_in_goes():
    before = make(extra=[(1, 0)])  # person 1 is at home in cluster 1 and also in cluster 0
    after = without_identities(before, [name for i, name in enumerate(NAMES) if i % M == 0])
    assert after.partition.n_clusters == 2 and not after.partition.overlapping
    assert after.identify(after.class_means_KD).identity == after.identities


def test_an_identifier_without_heads_changes_too():
    before = Identifier(NAMES, make().class_means_KD, Partition(np.zeros(K, np.int32), 1), NearestMean())
    after = with_identities(without_identities(before, ["person 3"]), NEW_NAMES, NEW)
    assert after.identify(after.class_means_KD).identity == after.identities and len(after.identities) == K + 3


def test_a_head_is_replaced_and_no_other():
    before = make()
    rows = torch.arange(5 * D, dtype=torch.float32).view(5, D)
    after = with_head(before, 1, rows)
    assert torch.equal(after.heads.rows_SD[5:10], rows)
    assert torch.equal(after.heads.rows_SD[:5], before.heads.rows_SD[:5])
    assert torch.equal(after.heads.rows_SD[10:], before.heads.rows_SD[10:])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda one: with_identities(one, ["person 3"], NEW[:1]), "'person 3', who is enrolled already"),
        (lambda one: with_identities(one, ["a", "a"], NEW[:2]), "twice"),
        (lambda one: with_identities(one, ["a"], NEW[:1, :5]), r"\(1, 5\)"),
        (lambda one: with_identities(one, ["a"], NEW[:1] * float("nan")), "not finite"),
        (lambda one: with_identities(one, ["a"], NEW[:1] * 0), "all zero"),
        (lambda one: without_identities(one, ["persn 3"]), "'persn 3', who is not enrolled.*person 3"),
        (lambda one: without_identities(one, list(NAMES)), "all 15 people"),
    ],
)
def test_what_cannot_be_done_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        change(make())


def test_what_was_fitted_to_the_people_is_forgotten_and_the_rest_kept():
    class Fitted(Argmax):
        needs_fit = True

        def __init__(self, factor=1.0, table_KD=None):
            self.factor, self.table_KD = factor, table_KD

    decision = Fitted(3.0, torch.zeros(K, D))
    for made in (with_identities(make(decision=decision), ["a"], NEW[:1]),
                 without_identities(make(decision=decision), ["person 3"])):  # fmt: skip
        assert made.decision.table_KD is None and made.decision.factor == 3.0 and made.decision.needs_fit
    assert decision.table_KD is not None
