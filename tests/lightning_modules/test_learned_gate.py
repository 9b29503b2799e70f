# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from datamodules.class_means import class_means, normalise_rows
from datamodules.partitioners.base import Partition
from datamodules.partitioners.samples import TrainingSamples
from datamodules.splits import Split
from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.routers.learned_gate import LearnedGate
from lightning_modules.scores import ProbeScores


def world(m=3, k=12, per=8, seed=0, noise=0.4):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(k), per)
    rows = normalise_rows(
        np.repeat(random.standard_normal((k, 6)), per, axis=0) + noise * random.standard_normal((k * per, 6))
    )
    split = Split(np.arange(k * per), labels.astype(np.int32))
    return TrainingSamples(rows, split), torch.from_numpy(class_means(rows, split, k)), Partition(np.arange(k) % m, m)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_the_slope_of_the_objective_is_zero_where_the_gate_stands(m):
    samples, means, partition = world(m)
    gate = LearnedGate(strength=2.0).fit(means, partition, samples, seed=0)
    rows = torch.cat([torch.from_numpy(samples.embeddings_ND), means]).double()
    labels = np.concatenate([samples.split.labels, np.arange(12)])
    target = torch.from_numpy(partition.cluster_of[labels].astype(np.int64))
    weight, bias = gate.weight_MD.double().requires_grad_(), gate.bias_M.double().requires_grad_()
    # Two clusters are one logistic function: scikit-learn penalises the difference of the two rows.
    penalty = weight.square().sum() / (2 * 2.0)
    loss = torch.nn.functional.cross_entropy(rows @ weight.T + bias, target, reduction="sum") + penalty
    slopes = torch.autograd.grad(loss, (weight, bias))
    if m == 2:
        slopes = (slopes[0][1], slopes[1][1])
    assert max(float(slope.abs().max()) for slope in slopes) < 0.05


def test_it_knows_borders_that_centres_do_not():
    # Both clusters have their centre in the same place; only the gate can tell the inner from the outer classes.
    random = np.random.default_rng(0)
    angles = np.array([0.0, 1.2, 2.4, 3.6, 4.8, 6.0])
    centres = np.stack([np.cos(angles), np.sin(angles), np.where(np.arange(6) % 2, 1.0, 0.6)], 1)
    labels = np.repeat(np.arange(6), 30)
    rows = normalise_rows(centres[labels] + 0.02 * random.standard_normal((180, 3)))
    samples = TrainingSamples(rows, Split(np.arange(180), labels.astype(np.int32)))
    means, partition = torch.from_numpy(class_means(rows, samples.split, 6)), Partition(np.arange(6) % 2, 2)
    scores, truth = ProbeScores(torch.from_numpy(rows), means, partition, None), labels % 2
    gate = LearnedGate(strength=100.0).fit(means, partition, samples, seed=0)
    right = np.mean(gate.route(scores)[:, 0].numpy() == truth)
    assert right > 0.99 > np.mean(ClusterMean().route(scores)[:, 0].numpy() == truth)


def test_p_clusters_come_in_order_and_every_identity_has_a_say():
    samples, means, partition = world(5)
    few = TrainingSamples(samples.embeddings_ND, Split(samples.split.rows[:8], samples.split.labels[:8]))
    gate = LearnedGate(p=9).fit(means, partition, few, seed=0)  # samples of one identity, class means of all
    scores = ProbeScores(means, means, partition, None)
    found = gate.route(scores)
    output = means @ gate.weight_MD.T + gate.bias_M
    assert found.shape == (12, 5) and torch.equal(found, output.argsort(1, descending=True))


def test_one_cluster_needs_no_learning():
    samples, means, _ = world()
    gate = LearnedGate().fit(means, Partition(np.zeros(12, int), 1), samples, seed=0)
    assert gate.route(ProbeScores(means, means, Partition(np.zeros(12, int), 1), None)).unique().tolist() == [0]


@pytest.mark.parametrize("wrong", [{"p": 0}, {"strength": 0.0}, {"max_samples": 0}])
def test_unusable_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        LearnedGate(**wrong)
