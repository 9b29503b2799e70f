# SPDX-License-Identifier: MIT
"""What every router, decision and metric must hold, found by the files in experiments/configs.

A new file is under test at once: pytest -k its_name. Axes: B batch, C classes, K identities, M clusters, D dimension.
"""

import numpy as np
import pytest
import torch

from datamodules.class_means import normalise_rows
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.base import Decided
from lightning_modules.identifier import Identifier
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads, ProbeScores
from tests.contracts import build, each
from tests.rounding import rounding


class Parts:
    """K identities in M clusters, B probes of any length; prototypes with a little noise as head rows."""

    def __init__(self, k=13, m=4, batch=19, dim=6, seed=0):
        random = np.random.default_rng(seed)
        cluster_of = np.r_[np.arange(m), random.integers(m, size=k - m)]
        self.means = normalise_rows(random.standard_normal((k, dim)))
        self.head_of_K = normalise_rows(self.means + 0.3 * random.standard_normal((k, dim)))
        self.probes = (
            normalise_rows(random.standard_normal((batch, dim))) * random.uniform(0.1, 9, (batch, 1))
        ).astype("f4")
        self.partition = Partition(cluster_of, m)

    def renumbered(self, order):
        """The same persons, identity order[i] as i."""
        other = Parts.__new__(Parts)
        other.means, other.head_of_K, other.probes = self.means[order], self.head_of_K[order], self.probes
        other.partition = Partition(self.partition.cluster_of[order], self.partition.n_clusters)
        return other

    def heads(self):
        rows = [torch.from_numpy(self.head_of_K[self.partition.members(c)]) for c in range(self.partition.n_clusters)]
        return Heads.pack(self.partition, rows)

    def scores(self, chosen=slice(None)):
        probes, means = torch.from_numpy(self.probes[chosen]), torch.from_numpy(self.means)
        return ProbeScores(probes, means, self.partition, self.heads())

    def identifier(self, router, decision):
        names = tuple(map(str, range(len(self.means))))
        return Identifier(names, torch.from_numpy(self.means), self.partition, decision, router, self.heads())


@each("router")
def test_a_router_names_clusters_that_exist_best_first_each_once(name):
    parts = Parts()
    clusters_BP = build("router", name).route(parts.scores())
    assert clusters_BP.dtype == torch.int64 and clusters_BP.ndim == 2 and len(clusters_BP) == 19
    assert (clusters_BP[:, 0] >= 0).all() and clusters_BP.max() < 4 and clusters_BP.min() >= -1
    for row in clusters_BP.tolist():
        named = [cluster for cluster in row if cluster >= 0]
        assert len(set(named)) == len(named) and set(row[len(named) :]) <= {-1}


@each("router")
def test_a_router_does_not_look_at_the_order_of_the_probes(name):
    parts, router, order = Parts(), build("router", name), np.random.default_rng(0).permutation(19)
    together = router.route(parts.scores())[:, 0]
    assert torch.equal(router.route(parts.scores(order))[:, 0], together[order])
    alone = [int(router.route(parts.scores(slice(b, b + 1)))[0, 0]) for b in range(19)]
    assert alone == together.tolist()


@each("router")
def test_a_router_of_one_cluster_has_no_choice(name):
    assert set(build("router", name).route(Parts(m=1).scores())[:, 0].tolist()) == {0}


@each("router")
def test_a_router_says_truly_whether_it_needs_the_heads(name):
    router, parts = build("router", name), Parts()
    without = ProbeScores(torch.from_numpy(parts.probes), torch.from_numpy(parts.means), parts.partition, None)
    if not router.needs_heads:
        assert torch.equal(router.route(without), router.route(parts.scores()))
    else:
        with pytest.raises((AttributeError, TypeError)):
            router.route(without)


@each("router")
def test_a_router_is_saved_with_an_identifier(name, tmp_path):
    router, parts = build("router", name), Parts()
    parts.identifier(router, Argmax()).save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    assert type(loaded.router) is type(router) and vars(loaded.router) == vars(router)
    assert loaded.identify(parts.probes).identity == parts.identifier(router, Argmax()).identify(parts.probes).identity


def decide(decision, parts, chosen=slice(None)):
    scores = parts.scores(chosen)
    return decision.decide(scores, NearestClass(3).route(scores))


@each("decision")
def test_a_decision_names_known_identities_in_a_cluster_that_holds_them(name):
    parts = Parts()
    decided = decide(build("decision", name), parts)
    assert decided.identity_B.dtype == decided.cluster_B.dtype == torch.int64
    assert decided.identity_B.shape == decided.cluster_B.shape == decided.score_B.shape == (19,)
    assert decided.identity_B.min() >= 0 and decided.identity_B.max() < 13 and torch.isfinite(decided.score_B).all()
    for identity, cluster in zip(decided.identity_B.tolist(), decided.cluster_B.tolist(), strict=True):
        assert identity in parts.partition.members(cluster)


@each("decision")
def test_a_decision_over_one_cluster_of_prototypes_is_the_argmax(name):
    # Where every head row is the class mean, all evidence says the same.
    parts = Parts(m=1)
    parts.head_of_K = parts.means
    expected = (parts.probes @ parts.means.T).argmax(axis=1)
    assert decide(build("decision", name), parts).identity_B.tolist() == expected.tolist()


@each("decision")
def test_a_decision_does_not_look_at_the_order_of_the_probes(name):
    parts, decision, order = Parts(), build("decision", name), np.random.default_rng(0).permutation(19)
    together, mixed = decide(decision, parts), decide(decision, parts, order)
    assert torch.equal(mixed.identity_B, together.identity_B[order])
    torch.testing.assert_close(mixed.score_B, together.score_B[order])
    alone = [int(decide(decision, parts, slice(b, b + 1)).identity_B) for b in range(19)]
    assert alone == together.identity_B.tolist()


@each("decision")
def test_a_decision_does_not_know_the_numbers_of_the_identities(name):
    parts, decision, order = Parts(), build("decision", name), np.random.default_rng(1).permutation(13)
    one, other = decide(decision, parts), decide(decision, parts.renumbered(order))
    assert order[other.identity_B].tolist() == one.identity_B.tolist()
    torch.testing.assert_close(one.score_B, other.score_B)


@each("decision")
def test_a_decision_says_truly_what_it_needs(name):
    decision, parts = build("decision", name), Parts()
    scores = parts.scores()
    if not decision.needs_route:
        assert torch.equal(decision.decide(scores, None).identity_B, decide(decision, parts).identity_B)
    if not decision.needs_heads:
        scores.heads = None
        route = NearestClass(3).route(scores)
        assert torch.equal(decision.decide(scores, route).identity_B, decide(decision, parts).identity_B)


@each("decision")
def test_a_decision_is_saved_with_an_identifier(name, tmp_path):
    decision, parts = build("decision", name), Parts()
    identifier = parts.identifier(NearestClass(2), decision)
    identifier.save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    assert type(loaded.decision) is type(decision) and vars(loaded.decision) == vars(decision)
    assert loaded.identify(parts.probes).identity == identifier.identify(parts.probes).identity


def fitted(identifier, parts):
    """Fitted to the class means as training samples and the probes, named by their nearest mean, as validation."""
    samples = TrainingSamples(
        np.repeat(parts.means, 2, axis=0), Split(np.arange(26), np.arange(26, dtype=np.int32) // 2)
    )
    truth = torch.from_numpy((parts.probes @ parts.means.T).argmax(axis=1))
    return identifier.fitted(samples, torch.from_numpy(parts.probes), truth)


@each("decision")
def test_a_fitted_decision_is_another_object_and_is_saved_with_what_it_found(name, tmp_path):
    decision, parts = build("decision", name), Parts()
    before = dict(vars(decision))
    identifier = fitted(parts.identifier(NearestClass(2), decision), parts)
    assert vars(decision) == before and type(identifier.decision) is type(decision)
    assert (identifier.decision is decision) == (not decision.needs_fit)
    identifier.save(tmp_path / "identifier")
    loaded = Identifier.load(tmp_path / "identifier")
    one, other = identifier.identify(parts.probes), loaded.identify(parts.probes)
    assert one.identity == other.identity
    for key, value in vars(identifier.decision).items():
        found = getattr(loaded.decision, key)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, key
    # Scores are cosines, a difference of such, or a quadratic form of cosines.
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=4 * rounding(6))


@each("decision")
def test_ranks_begin_with_the_answer_and_name_nobody_twice(name):
    decision, parts = build("decision", name), Parts()
    scores = parts.scores()
    clusters_BP = NearestClass(3).route(scores)
    ranked, decided = decision.rank(scores, clusters_BP, 5), decision.decide(scores, clusters_BP)
    assert torch.equal(ranked.identity_BT[:, 0], decided.identity_B) and ranked.identity_BT.shape[1] <= 5
    torch.testing.assert_close(ranked.score_BT[:, 0], decided.score_B)
    assert (ranked.score_BT[:, 1:] <= ranked.score_BT[:, :-1]).all()
    for row in ranked.identity_BT.tolist():
        named = [identity for identity in row if identity >= 0]
        assert len(set(named)) == len(named) and set(row[len(named) :]) <= {-1}


def asked(metric, identity, score, truth, sizes):
    """A metric's number, probes given in blocks of such sizes."""
    for block in torch.arange(len(truth)).split(sizes):
        metric.update(Decided(identity[block], score[block], torch.zeros_like(block)), truth[block])
    return metric.compute()


@each("metric")
def test_a_metric_is_one_number_whatever_the_blocks_and_the_order(name):
    generator = torch.Generator().manual_seed(0)
    identity, truth = torch.randint(5, (40,), generator=generator), torch.arange(40) % 5
    score, order = torch.rand(40, generator=generator), torch.randperm(40, generator=generator)
    once = asked(build("metric", name), identity, score, truth, [40])
    parts = asked(build("metric", name), identity[order], score[order], truth[order], [1, 7, 32])
    assert isinstance(once, float) and once == pytest.approx(parts, abs=1e-9)


@each("metric")
def test_a_metric_in_percent_stays_in_0_to_100_and_tells_right_from_wrong(name):
    metric, truth, score = build("metric", name), torch.arange(6) % 3, torch.linspace(0, 1, 6)
    right = asked(metric, truth, score, truth, [6])
    wrong = asked(build("metric", name), (truth + 1) % 3, score, truth, [6])
    assert right > wrong if metric.higher_is_better else right < wrong
    assert metric.unit != "percent" or (0 <= wrong <= 100 and 0 <= right <= 100)
