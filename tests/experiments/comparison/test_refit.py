# SPDX-License-Identifier: MIT
"""refit=train_val: class means, heads and evidence from training and validation images, choices as before."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from datamodules.errors import InputError
from experiments.comparison.coordinator import Cell
from experiments.comparison.rows import scenario_of_row
from lightning_modules.decisions.metric import Metric
from lightning_modules.evaluation import evaluate

CELL = Cell(16, 2, 0)
ROWS = '["knn","clustered_fused","clustered_nearest"]'


@pytest.fixture
def both_ways(coordinate, monkeypatch):
    # How many validation samples a fit has seen: all of them before, none of them again.
    monkeypatch.setattr(Metric, "fit", lambda self, scores, clusters, truth, samples: Metric(strength=1 + len(truth)))
    with coordinate(f"scenarios={ROWS}", "refit=train_val") as (coordinator, scenarios):
        assert coordinator.train_missing((CELL, one) for one in scenarios.values()) == {}
        yield coordinator, {name: coordinator.identifier(CELL, one) for name, one in scenarios.items()}


def test_every_scenario_has_a_row_of_each_kind(both_ways):
    names = [name for name in both_ways[1] if "refit" not in name]
    assert len(names) == 3 and set(both_ways[1]) == {*names, *(f"{name},refit=train_val" for name in names)}


def test_class_means_are_those_of_training_and_validation_samples(both_ways):
    coordinator, made = both_ways
    splits, embeddings = coordinator.data(CELL).splits, coordinator.embedding_set.embeddings
    for name, parts in (("knn", [splits.train]), ("knn,refit=train_val", [splits.train, splits.val])):
        unit = normalize(np.concatenate([embeddings[part.rows] for part in parts]).astype(np.float64))
        labels = np.concatenate([part.labels for part in parts])
        means = normalize(np.stack([unit[labels == k].mean(0) for k in range(16)]))
        np.testing.assert_allclose(made[name].class_means_KD.numpy(), means, atol=1e-6)


def test_what_was_chosen_stays_and_what_is_trained_changes(both_ways):
    _, made = both_ways
    fused, fused_again = (made[f"clustered_fused{end}"].decision for end in ("", ",refit=train_val"))
    assert fused_again.strength == fused.strength > 1
    plain, again = (made[f"clustered_nearest{end}"] for end in ("", ",refit=train_val"))
    assert np.array_equal(plain.partition.cluster_of, again.partition.cluster_of)
    assert not torch.allclose(plain.heads.rows_SD, again.heads.rows_SD, atol=1e-3)
    assert again.provenance["split"]["refit"] is True and "refit" not in plain.provenance["split"]


def test_test_samples_are_the_same_and_take_no_part_in_training(both_ways):
    coordinator, made = both_ways
    plain, again = (coordinator.data(CELL, refit).splits for refit in (False, True))
    assert np.array_equal(plain.test.rows, again.test.rows) and not len(again.val)
    assert sorted(again.train.rows) == sorted([*plain.train.rows, *plain.val.rows])
    assert (np.diff(again.train.rows) > 0).all() and (np.diff(again.train.labels) >= 0).all()
    assert not set(again.train.rows) & set(again.test.rows)
    evaluate(made["clustered_fused,refit=train_val"], coordinator.embedding_set, again.test)


def test_a_wrong_value_is_refused(compose, quick):
    cfg = compose("compare", *quick)
    with pytest.raises(InputError, match="refit = yes; expected train_val"):
        scenario_of_row("knn,refit=yes", cfg)
