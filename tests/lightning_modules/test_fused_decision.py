# SPDX-License-Identifier: MIT
"""The decision of our own, fitted to people who vary much in a few directions. Axes: B probes, K identities, D dim."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from datamodules.class_means import class_means, normalise_rows
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.fused import Fused
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads
from tests.rounding import rounding

K, D, M = 40, 16, 3
SMALL = {"directions": 8, "pool": 30, "prior": 20}


@dataclass
class World:
    """Identities with training, validation and test samples that vary ten times as much in four directions."""

    train: TrainingSamples
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    means_KD: np.ndarray
    partition: Partition
    rows_KD: np.ndarray

    def identifier(self, decision, p=2):
        rows = [torch.from_numpy(self.rows_KD[self.partition.members(c)]) for c in range(M)]
        names, means = tuple(map(str, range(K))), torch.from_numpy(self.means_KD)
        return Identifier(names, means, self.partition, decision, NearestClass(p), Heads.pack(self.partition, rows))

    def fitted(self, decision=None, p=2, n_val=None):
        val, truth = (torch.from_numpy(part[:n_val]) for part in self.val)
        return self.identifier(decision or Fused(**SMALL), p).fitted(self.train, val, truth, seed=0)

    def accuracy(self, identifier):
        return np.mean(identifier.identify(self.test[0]).index == self.test[1])


def make_world(n_train=6, seed=0, rotation=None, misled=False):
    random = np.random.default_rng(seed)
    centres = normalise_rows(random.standard_normal((K, D)))
    spread = np.r_[np.full(4, 0.75), np.full(D - 4, 0.075)]

    def draw(count):
        labels = np.repeat(np.arange(K), count)
        rows = normalise_rows(centres[labels] + spread * random.standard_normal((len(labels), D)))
        return (rows if rotation is None else rows @ rotation).astype(np.float32), labels

    (rows, labels), val, test = draw(n_train), draw(3), draw(10)
    split = Split(np.arange(len(labels)), labels.astype(np.int32))
    means = class_means(rows, split, K)
    heads = normalise_rows(random.standard_normal((K, D))) if misled else means.copy()
    cluster_of = np.r_[np.arange(M), random.integers(M, size=K - M)]
    return World(TrainingSamples(rows, split), val, test, means, Partition(cluster_of, M), heads)


def test_before_fitting_it_is_the_nearest_class_mean_of_the_routed_clusters():
    world = make_world(misled=True)
    exhaustive, knn = world.identifier(Fused(**SMALL), p=K), world.identifier(NearestMean())
    assert exhaustive.identify(world.test[0]).index.tolist() == knn.identify(world.test[0]).index.tolist()


def test_a_decision_is_what_its_formula_says():
    world = make_world()
    world.rows_KD = normalise_rows(world.means_KD + 0.1 * np.random.default_rng(1).standard_normal((K, D)))
    identifier = world.fitted(p=K)
    made, x = identifier.decision, world.test[0].astype(np.float64)
    made.weight = 0.7  # rows that say little more than the means may be left out
    assert made.gain + made.pooled_gain > 0
    scores = made.weight * x @ world.means_KD.T + (1 - made.weight) * x @ world.rows_KD.T
    for b in range(0, len(x), 8):
        expected = {}
        for cluster in range(M):
            members = world.partition.members(cluster)
            for k in sorted(members, key=lambda k: -scores[b, k])[:10]:
                offset = x[b] @ made.basis_DR.numpy().astype(np.float64) - made.projected_KR[k].numpy()
                metric = made.metric_KRR[k].float().numpy().astype(np.float64)
                pooled = made.metric_RR.numpy().astype(np.float64)
                expected[k] = scores[b, k] - offset @ (made.gain * metric + made.pooled_gain * pooled) @ offset / 2
        decided = identifier.decide(torch.from_numpy(world.test[0][b : b + 1]))
        assert int(decided.identity_B) == max(expected, key=expected.get)
        assert float(decided.score_B) == pytest.approx(max(expected.values()), abs=2e-3)


def test_it_learns_what_varies_and_beats_the_nearest_mean():
    world = make_world()
    fused, knn = world.accuracy(world.fitted()), world.accuracy(world.identifier(NearestMean()))
    assert fused > knn + 0.05


def test_rows_that_know_nothing_get_no_weight():
    world = make_world(misled=True)
    fitted = world.fitted()
    assert fitted.decision.weight > 0.95
    assert world.accuracy(world.identifier(Argmax())) < 0.2 < world.accuracy(fitted)


def test_without_rows_no_head_is_needed_and_none_is_looked_at():
    world = make_world(misled=True)
    with_heads = world.fitted(Fused(**SMALL, rows=False), p=K)
    val, truth = map(torch.from_numpy, world.val)
    names, means = tuple(map(str, range(K))), torch.from_numpy(world.means_KD)
    one = Identifier(names, means, Partition(np.zeros(K, int), 1), Fused(**SMALL, rows=False))
    one = one.fitted(world.train, val, truth, seed=0)
    assert one.decision.weight == with_heads.decision.weight == 1
    assert world.accuracy(one) > world.accuracy(world.identifier(NearestMean())) + 0.05


def test_rows_of_identities_with_a_single_sample_get_no_weight_whatever_validation_says():
    world = make_world(n_train=1)
    world.rows_KD = class_means(*[world.val[0], Split(np.arange(3 * K), np.repeat(np.arange(K), 3).astype("i4")), K])
    assert world.fitted().decision.weight == 1  # rows that are the mean of the validation probes themselves
    world = make_world(n_train=2)
    world.rows_KD = class_means(*[world.val[0], Split(np.arange(3 * K), np.repeat(np.arange(K), 3).astype("i4")), K])
    assert world.fitted().decision.weight < 0.9


def test_a_rotation_of_the_space_changes_no_answer():
    rotation = ortho_group.rvs(D, random_state=3)
    one, other = make_world(), make_world(rotation=rotation)
    a, b = one.fitted(), other.fitted()
    assert a.decision.weight == pytest.approx(b.decision.weight, abs=0.02)
    same = a.identify(one.test[0]).index == b.identify(other.test[0]).index
    assert same.mean() > 0.99


def test_without_validation_the_training_samples_are_the_probes_and_rows_get_no_weight():
    world = make_world()
    fitted = world.fitted(n_val=0)
    assert fitted.decision.weight == 1 and fitted.decision.gain + fitted.decision.pooled_gain > 0
    assert world.accuracy(fitted) > world.accuracy(world.identifier(NearestMean())) + 0.05


def test_with_one_sample_each_and_no_validation_class_means_decide_alone():
    world = make_world(n_train=1)
    fitted, knn = world.fitted(n_val=0, p=K), world.identifier(NearestMean())
    assert fitted.identify(world.test[0]).index.tolist() == knn.identify(world.test[0]).index.tolist()
    assert (fitted.decision.weight, fitted.decision.gain, fitted.decision.pooled_gain) == (1, 0, 0)


def test_a_fitted_decision_is_saved_and_answers_alike(tmp_path):
    world = make_world()
    fitted = world.fitted()
    fitted.save(tmp_path / "identifier")
    assert "metric" not in (tmp_path / "identifier" / "identifier.json").read_text()
    loaded = Identifier.load(tmp_path / "identifier")
    one, other = fitted.identify(world.test[0]), loaded.identify(world.test[0])
    assert one.index.tolist() == other.index.tolist()
    # A loaded tensor may lie at another alignment, and products then sum in another order. The score has cosines and a
    # quadratic form of offsets, of length 2 at most, that are differences of cosines.
    np.testing.assert_allclose(one.score, other.score, rtol=0, atol=4 * rounding(D))
    assert sorted(p.suffix for p in (tmp_path / "identifier").iterdir()) == [".json", ".safetensors"]


def test_training_samples_are_scored_against_their_class_without_them():
    from lightning_modules import local_metric
    from lightning_modules.decisions import evidence

    world = make_world()
    scores = world.identifier(Fused()).scores(torch.from_numpy(world.test[0]))
    even = world.train.split.labels % 2 == 0
    rows, labels = world.train.embeddings_ND[~even], world.train.split.labels[~even]
    half = TrainingSamples(world.train.embeddings_ND, Split(np.flatnonzero(even), world.train.split.labels[even]))
    learned = local_metric.learn(scores.class_means_KD, half, 8, 30, 20)
    metrics = local_metric.metric(torch.cat([part for _, part in learned.covariances()]), 1.0).numpy()
    found = evidence.of_training_samples(scores, world.train, (8, 30, 20), (1.0,), 10)
    assert len(found.right_BX) == len(rows)
    for b in range(0, len(rows), 7):
        if not found.right_BX[b].any():
            continue
        others = rows[(labels == labels[b]) & (np.arange(len(rows)) != b)].astype(np.float64).mean(0)
        mean = others / np.linalg.norm(others)
        place = int(found.right_BX[b].nonzero()[0])
        assert float(found.mean_BX[b, place]) == pytest.approx(rows[b] @ mean, abs=1e-4)
        offset = (rows[b] - learned.length * mean) @ learned.basis_DR.numpy()
        metric = metrics[labels[b]]
        assert float(found.local_SBX[0, b, place]) == pytest.approx(-offset @ metric @ offset / 2, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"pool": 0}, {"weight": 1.5}, {"gain": -1.0}, {"strength": 0.0}])
def test_unusable_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Fused(**wrong)
