# SPDX-License-Identifier: MIT
"""The decision of our own, fitted to people who vary much in a few directions. Axes: B probes, K identities, D dim."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from datamodules.class_means import class_means, normalise_rows
from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from datamodules.synthetic import SyntheticIdentities
from lightning_modules import local_metric
from lightning_modules.decisions import evidence
from lightning_modules.decisions.metric import Metric
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.local_metric import learn
from lightning_modules.routers.nearest_class import NearestClass
from tests.rounding import rounding

K, D, M = 40, 16, 3
SMALL = {"directions": 8, "pool": 30, "prior": 20}


@dataclass
class World:
    """Identities with training, validation and test samples that vary ten times as much in four directions."""

    train: TrainingSamples
    test: tuple[np.ndarray, np.ndarray]
    means_KD: np.ndarray
    partition: Partition

    def identifier(self, decision, p=2):
        names, means = tuple(map(str, range(K))), torch.from_numpy(self.means_KD)
        return Identifier(names, means, self.partition, decision, NearestClass(p))

    def fitted(self, p=2):
        none = torch.zeros(0, D), torch.zeros(0, dtype=torch.long)
        return self.identifier(Metric(**SMALL), p).fitted(self.train, *none)

    def accuracy(self, identifier):
        return np.mean(identifier.identify(self.test[0]).index == self.test[1])


def covariance(learned, identity):
    return learned.covariances(torch.tensor([identity]))[0]


def make_world(n_train=8, seed=0, rotation=None, k=K):
    random = np.random.default_rng(seed)
    centres = normalise_rows(random.standard_normal((k, D)))
    spread = np.r_[np.full(4, 0.75), np.full(D - 4, 0.075)]

    def draw(count):
        labels = np.repeat(np.arange(k), count)
        rows = normalise_rows(centres[labels] + spread * random.standard_normal((len(labels), D)))
        return (rows if rotation is None else rows @ rotation).astype(np.float32), labels

    (rows, labels), test = draw(n_train), draw(10)
    split = Split(np.arange(len(labels)), labels.astype(np.int32))
    means = class_means(rows, split, k)
    cluster_of = np.r_[np.arange(M), random.integers(M, size=k - M)]
    return World(TrainingSamples(rows, split), test, means, Partition(cluster_of, M))


def test_before_fitting_it_is_the_nearest_class_mean_of_the_routed_clusters():
    world = make_world()
    exhaustive, knn = world.identifier(Metric(**SMALL), p=K), world.identifier(NearestMean())
    assert exhaustive.identify(world.test[0]).index.tolist() == knn.identify(world.test[0]).index.tolist()


def test_a_decision_is_what_its_formula_says():
    world = make_world()
    identifier = world.fitted(p=K)
    made, x = identifier.decision, world.test[0].astype(np.float64)
    f1, f2, f3, f4 = made.factors_J.double().tolist()
    assert min(f1, f2, f3) > 0
    made.factors_J[3] = f4 = 5.0
    rows, labels = world.train.embeddings_ND.astype(np.float64), world.train.split.labels
    basis, t = made.basis_DR.double().numpy(), made.length
    pairs = [rows[i] @ rows[j] for i in range(len(rows)) for j in range(i) if labels[i] == labels[j]]
    assert t == pytest.approx(np.mean(pairs) ** 0.5, abs=1e-3)
    for b in range(0, len(x), 8):
        expected = {}
        for cluster in range(M):
            members = world.partition.members(cluster)
            for k in sorted(members, key=lambda k: -(x[b] @ world.means_KD[k]))[:10]:
                own, cosine = rows[labels == k], float(x[b] @ world.means_KD[k])
                o = basis.T @ (x[b] - t * world.means_KD[k])
                inverse = np.linalg.inv(np.eye(8) + made.strength * covariance(made._local, k).double().numpy())
                pair = (np.linalg.norm(own.sum(0)) ** 2 - len(own)) / len(own)
                tight = (pair + 4 * t**2) / (len(own) - 1 + 4) / t**2
                length = np.linalg.norm(own.mean(0))
                centred = (own - length * world.means_KD[k]) @ basis
                nearest = (length * cosine + centred @ (basis.T @ x[b])).max()
                total = (
                    f1 * cosine + f2 * (o @ o - o @ inverse @ o) / 2 + f3 * (1 + (cosine - 1) * tight) + f4 * nearest
                )
                expected[k] = total / (f1 + f3 + f4)
        decided = identifier.decide(torch.from_numpy(world.test[0][b : b + 1]))
        assert int(decided.identity_B) == max(expected, key=expected.get)
        assert float(decided.score_B) == pytest.approx(max(expected.values()), abs=2e-3)


def test_it_learns_what_varies_and_beats_the_nearest_mean():
    world = make_world()
    assert world.accuracy(world.fitted()) > world.accuracy(world.identifier(NearestMean())) + 0.05


def test_three_samples_of_many_similar_people_are_enough_to_beat_the_nearest_mean():
    """With few samples a class without the probe is far from it: not to be learned as a sign of the right class."""
    k, dim = 600, 64
    drawn = SyntheticIdentities(k, dim=dim, samples_per_identity=5, samples_spread=0, n_families=10, dtype="float32")
    rows, labels, names = drawn.generate()
    train, test = (np.flatnonzero((np.arange(len(labels)) % 5 < 3) == which) for which in (True, False))
    split = Split(train, labels[train].astype(np.int32))
    means, none = torch.from_numpy(class_means(rows, split, k)), (torch.zeros(0, dim), torch.zeros(0, dtype=torch.long))
    one = Identifier(names, means, Partition(np.zeros(k, int), 1), Metric(directions=32))
    fitted, knn = one.fitted(TrainingSamples(rows, split), *none), replace(one, decision=NearestMean())
    found, plain = (np.mean(identifier.identify(rows[test]).index == labels[test]) for identifier in (fitted, knn))
    assert found > plain + 0.04


@pytest.mark.parametrize("most", [1, 3, 20])
def test_candidates_that_cannot_win_are_left_out_and_nothing_changes(most):
    world = make_world()
    fitted, probes = world.fitted(), torch.from_numpy(world.test[0])
    every = world.fitted()
    every.decision.margin = 10.0
    (one, _), (other, _) = fitted.rank(probes, most), every.rank(probes, most)
    assert torch.equal(one.identity_BT, other.identity_BT)
    torch.testing.assert_close(one.score_BT, other.score_BT, atol=1e-5, rtol=0)
    asked = [len(identifier.decision._local._cache) for identifier in (fitted, every)]
    assert 0 < fitted.decision.margin < 1 and asked[0] <= asked[1]
    alone = fitted.decide(probes[:1])  # a single probe asks for few of its twenty candidates
    fitted.decision._local._cache.clear()
    assert torch.equal(fitted.decide(probes[:1]).identity_B, alone.identity_B)
    assert len(fitted.decision._local._cache) < 10


def test_refit_keeps_the_weights_and_learns_the_rest_again():
    few, many = make_world(), make_world(n_train=12)  # the same identities
    before = few.fitted().decision
    means_KD = torch.from_numpy(many.means_KD)
    after = before.refit(means_KD, many.train)
    assert torch.equal(before.factors_J, after.factors_J)
    assert (before.strength, before.margin) == (after.strength, after.margin)
    assert len(before.centred_NR) == 8 * K and len(after.centred_NR) == 12 * K
    learned = learn(means_KD, many.train, **SMALL)
    torch.testing.assert_close(after.projected_KR, learned.projected_KR)
    torch.testing.assert_close(after.whole_RR, learned.whole_RR)
    unused = Metric(**SMALL)
    assert unused.refit(means_KD, many.train) is unused  # class means decide alone, as before


def test_validation_probes_are_not_looked_at():
    world = make_world()
    misled = torch.from_numpy(world.test[0]), torch.from_numpy(np.roll(world.test[1], 7))
    other = world.identifier(Metric(**SMALL)).fitted(world.train, *misled)
    assert torch.equal(other.decision.factors_J, world.fitted().decision.factors_J)


def test_a_rotation_of_the_space_changes_no_answer():
    one, other = make_world(), make_world(rotation=ortho_group.rvs(D, random_state=3))
    a, b = one.fitted(), other.fitted()
    np.testing.assert_allclose(a.decision.factors_J, b.decision.factors_J, rtol=0.05)
    same = a.identify(one.test[0]).index == b.identify(other.test[0]).index
    assert same.mean() > 0.99


@pytest.mark.parametrize("n_train", [1, 2])
def test_with_too_little_to_learn_from_class_means_decide_alone(n_train):
    world = make_world(n_train=n_train, k=6)
    fitted, knn = world.fitted(p=K), world.identifier(NearestMean())
    assert fitted.identify(world.test[0]).index.tolist() == knn.identify(world.test[0]).index.tolist()
    assert fitted.decision.factors_J is None


def test_evidence_that_repairs_nothing_is_not_used():
    random = np.random.default_rng(0)  # alike in all directions: the cosine knows everything
    centres = normalise_rows(random.standard_normal((K, 64)))
    labels = np.repeat(np.arange(K), 6)
    rows = normalise_rows(centres[labels] + 0.05 * random.standard_normal((len(labels), 64))).astype(np.float32)
    split = Split(np.arange(len(labels)), labels.astype(np.int32))
    means = torch.from_numpy(class_means(rows, split, K))
    one = Identifier(tuple(map(str, range(K))), means, Partition(np.zeros(K, int), 1), Metric(**SMALL))
    none = torch.zeros(0, 64), torch.zeros(0, dtype=torch.long)
    assert one.fitted(TrainingSamples(rows, split), *none).decision.factors_J is None


def test_an_identity_takes_less_than_four_kilobytes():
    random, k = np.random.default_rng(0), 120
    labels = np.repeat(np.arange(k), 40)
    rows = normalise_rows(random.standard_normal((k, 128)))[labels] + 0.3 * random.standard_normal((len(labels), 128))
    rows, split = normalise_rows(rows).astype(np.float32), Split(np.arange(len(labels)), labels.astype(np.int32))
    learned = learn(torch.from_numpy(class_means(rows, split, k)), TrainingSamples(rows, split), 96, 300, 200)
    growing = (
        learned.centred_NR,
        learned.start_K,
        learned.projected_KR,
        learned.near_Kj,
        learned.mean_length_K,
        learned.count_K,
    )  # the others do not depend on the number of identities
    assert sum(one.nbytes for one in growing) / k < 4096
    assert learned.centred_NR.shape == (16 * k, 96)


def test_a_fitted_decision_is_saved_and_answers_alike(tmp_path):
    world = make_world()
    fitted = world.fitted()
    fitted.save(tmp_path / "identifier")
    assert "centred" not in (tmp_path / "identifier" / "identifier.json").read_text()
    loaded = Identifier.load(tmp_path / "identifier")
    one, other = fitted.identify(world.test[0]), loaded.identify(world.test[0])
    assert one.index.tolist() == other.index.tolist()
    # A loaded tensor may lie at another alignment, and products then sum in another order. The score has cosines and a
    # quadratic form of offsets, of length 2 at most, that are differences of cosines.
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=4 * rounding(D))
    assert sorted(p.suffix for p in (tmp_path / "identifier").iterdir()) == [".json", ".safetensors"]


def test_what_was_fitted_for_others_is_refused():
    decision, names = make_world().fitted().decision, tuple(map(str, range(K - 1)))
    with pytest.raises(InputError, match="fitted"):
        Identifier(names, torch.eye(K - 1, D), Partition(np.zeros(K - 1, int), 1), decision)


def test_training_samples_are_scored_against_classes_without_one_of_their_samples():
    world = make_world()
    scores = world.identifier(Metric()).scores(torch.from_numpy(world.test[0]))
    labels, rows = world.train.split.labels, world.train.embeddings_ND.astype(np.float64)
    even = torch.arange(K) % 2 == 0
    learned = local_metric.learn(scores.class_means_KD, world.train, 8, 30, 20, donor_K=even)
    kinds_SJBX, right_BX = evidence.of_training_samples(scores, world.train, 0, (8, 30, 20), (1.0,), 10)
    odd = np.flatnonzero(labels % 2)
    assert len(right_BX) == len(odd)
    basis, t = learned.basis_DR.double().numpy(), learned.length
    kinds, checked = kinds_SJBX[0].numpy(), 0
    for b in range(0, len(odd), 19):
        x, found = rows[odd[b]], []
        for c in range(K):
            # Right: without the probe; wrong: one of eight samples is left out, whichever it is.
            members = np.flatnonzero(labels == c)
            left_out = [odd[b]] if c == labels[odd[b]] else members
            for others in (rows[np.setdiff1d(members, [one])] for one in left_out):
                found.append((c, evidence_by_hand(x, others, basis, t, covariance(learned, c), learned.whole_RR)))
        for place in range(kinds.shape[2]):
            wanted = [e for c, e in found if (c == labels[odd[b]]) == bool(right_BX[b, place])]
            nearest = np.abs(np.array(wanted) - kinds[:, b, place]).max(1).min()
            assert nearest < 3e-3
            checked += bool(right_BX[b, place])
        assert (np.diff(kinds[0, b]) <= 0).all()
    assert checked > 5


def evidence_by_hand(x, others, basis, t, covariance_RR, whole_RR):
    """Mean, metric, tightness, nearest sample and metric of all identities for a class of these samples, in float64."""
    mean, n = others.mean(0) / np.linalg.norm(others.mean(0)), len(others)
    o = (x - t * mean) @ basis
    inverses = (
        np.linalg.inv(np.eye(8) + one.double().numpy()) for one in (covariance_RR, local_metric.scaled(whole_RR))
    )
    metric, of_all = ((o @ o - o @ inverse @ o) / 2 for inverse in inverses)
    pair = (np.linalg.norm(others.sum(0)) ** 2 - n) / n
    tight = (pair + 4 * t**2) / (n - 1 + 4) / t**2
    whole = others.mean(0)
    nearest = (x @ whole + ((others - whole) @ basis @ basis.T) @ x).max()
    return [x @ mean, metric, (x @ mean - 1) * tight, nearest, of_all]


@pytest.mark.parametrize(
    "wrong", [{"candidates": 0}, {"pool": 0}, {"directions": -1}, {"prior": -1}, {"strength": 0.0}]
)
def test_unusable_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Metric(**wrong)
