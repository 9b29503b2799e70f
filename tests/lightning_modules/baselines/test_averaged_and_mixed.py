# SPDX-License-Identifier: MIT
"""Multi-cognition softmax and MixMaxSim against the routers' own max-max and against the rule written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datamodules.partitioners.random import RandomPartitioner
from lightning_modules.baselines.base import unit_rows
from lightning_modules.baselines.mix_max_sim import MixMaxSim, Rule
from lightning_modules.baselines.multi_cognition import MultiCognition
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.identifier import Identifier
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.scores import Heads


def ensembles(means_KD, units, rows_per_class=1):
    """Random partitions with head rows close to the class means, R to a class."""
    random, found = np.random.default_rng(0), []
    for unit in range(units):
        partition = RandomPartitioner(shuffle=unit).fit(means_KD, 3, 0)
        rows = []
        for c in range(3):
            near = np.repeat(means_KD[partition.members(c)], rows_per_class, axis=0)
            rows.append(F.normalize(torch.from_numpy(near + 0.4 * random.standard_normal(near.shape)).float()))
        found.append((partition, Heads.pack(partition, rows)))
    return tuple(found)


def of_ism(made, one):
    partition, heads = one
    names = tuple(map(str, range(made.n_identities)))
    return Identifier(names, torch.from_numpy(made.class_means_KD), partition, Argmax(), MaxOutput(), heads)


@pytest.mark.parametrize("rows_per_class", [1, 2])
def test_one_unit_is_ism(rows_per_class, task):
    made = task()
    one = ensembles(made.class_means_KD, 1, rows_per_class)
    made = task(ensembles=one)
    probes, _ = unit_rows(made.val)
    expected, found = of_ism(made, one[0]).decide(probes), MultiCognition(1).fit(made).decide(7.5 * probes)
    assert torch.equal(found.identity_B, expected.identity_B)
    torch.testing.assert_close(found.score_B, expected.score_B)


@pytest.mark.parametrize("rows_per_class", [1, 2])
def test_several_units_average_the_score_of_each_identity(rows_per_class, task):
    made = task()
    three = ensembles(made.class_means_KD, 3, rows_per_class)
    probes, _ = unit_rows(made.val)
    total = np.zeros((len(probes), made.n_identities))
    for partition, heads in three:
        for c in range(3):
            output = (probes @ heads.rows_SD[heads.starts[c] : heads.starts[c + 1]].T).numpy()
            for place, identity in enumerate(partition.members(c)):
                total[:, identity] += output[:, place * rows_per_class : (place + 1) * rows_per_class].max(axis=1)
    found = MultiCognition(3).fit(task(ensembles=three)).decide(probes)
    assert found.identity_B.tolist() == total.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.score_B.numpy(), total.max(axis=1) / 3, rtol=1e-5)


def test_units_are_different_shuffles_and_the_first_is_that_of_ism(task):
    means = task().class_means_KD
    hashes = [partitioner.fit(means, 3, 0).hash() for partitioner in MultiCognition(4).partitioners()]
    assert len(set(hashes)) == 4 and hashes[0] == RandomPartitioner().fit(means, 3, 0).hash()


def written_out(made, heads, t, confidence):
    """The rule of the authors' code, probe by probe."""
    probes, _ = unit_rows(made.val)
    rows = np.zeros_like(made.class_means_KD)
    rows[heads.identity_S.numpy()] = heads.rows_SD.numpy()
    answers = []
    for probe in probes.numpy():
        similarity, output = made.class_means_KD @ probe, rows @ probe
        a, b = similarity.argmax(), output.argmax()
        if output[b] > confidence:
            answers.append(b)
        elif similarity[a] * (output[a] + 1) / 2 * (t / 10) > output[b] * (similarity[b] + 1) / 2:
            answers.append(a)
        else:
            answers.append(b)
    return answers


def test_mix_max_sim_is_the_authors_rule_and_t_the_last_best_on_validation(task):
    made = task(noise=1.2)
    ((_, heads),) = one = ensembles(made.class_means_KD, 1)
    made = task(noise=1.2, ensembles=one)
    probes, truth = unit_rows(made.val)
    hits = []
    for t in range(20):
        rule = Rule(torch.from_numpy(made.class_means_KD), heads, 0.8, t)
        expected = written_out(made, heads, t, 0.8)
        assert rule.decide(probes).identity_B.tolist() == expected
        hits.append(np.mean(np.array(expected) == truth.numpy()))  # as many samples each: macro recall is accuracy
    assert len(set(hits)) > 3
    fitted = MixMaxSim().fit(made)
    assert fitted.t == max(t for t in range(20) if hits[t] == max(hits))


def test_an_unlimited_confidence_leaves_max_max_and_a_large_t_the_means(task):
    made = task(noise=1.2)
    ((_, heads),) = one = ensembles(made.class_means_KD, 1)
    probes, _ = unit_rows(made.val)
    means = torch.from_numpy(made.class_means_KD)
    ism = of_ism(made, one[0]).decide(probes).identity_B
    assert torch.equal(Rule(means, heads, -2.0, 10).decide(probes).identity_B, ism)
    assert torch.equal(Rule(means, heads, 2.0, 10**6).decide(probes).identity_B, (probes @ means.T).argmax(1))


def test_without_validation_samples_the_rule_stands_as_it_is(task):
    made = task()
    one = ensembles(made.class_means_KD, 1)
    empty = type(made.val)(
        made.val.embeddings_ND, type(made.val.split)(made.val.split.rows[:0], made.val.split.labels[:0])
    )
    assert MixMaxSim().fit(task(ensembles=one, val=empty)).t == 10
