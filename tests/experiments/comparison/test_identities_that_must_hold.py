# SPDX-License-Identifier: MIT
"""Equalities between scenarios that hold whatever the data: trained, assembled and asked for names.

Axes: B probes, K identities, M clusters.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from experiments.comparison.coordinator import Cell
from lightning_modules.evaluation import cluster_accuracy, evaluate
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass

K = 16
SEEDS = (0, 1)


def trained(coordinator, cell, scenario):
    """The identifier of a scenario after training what it needs."""
    assert coordinator.train_missing([(cell, scenario)]) == {}
    return coordinator.identifier(cell, scenario)


def probes(coordinator, cell):
    embedding_set, splits = coordinator.embedding_set, coordinator.data(cell).splits
    return embedding_set.embeddings[splits.test.rows], splits.test.labels


def test_with_one_cluster_clustered_ism_and_no_distribution_are_one_network(coordinate):
    found, seed = [], 3
    for name in ("no_distribution", "ism", "clustered_maxmax", "clustered_nearest", "random_nearest"):
        # A run of its own for each, so that nothing trained for one serves another.
        with coordinate(f"scenarios=[{name}]", "n_subnets=1", name=name) as (coordinator, scenarios):
            cell = Cell(K, 1, seed)
            identifier = trained(coordinator, cell, scenarios[name])
            decided = identifier.identify(probes(coordinator, cell)[0])
            found.append(
                (identifier.heads.rows_SD, decided.index.tolist(), decided.score.tolist(), decided.cluster.tolist())
            )
    rows, *answers = found[0]
    for other_rows, *other_answers in found[1:]:
        assert torch.equal(rows, other_rows) and answers == other_answers


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_cluster_for_everybody_clustered_nearest_is_knn(coordinate, seed):
    with coordinate("scenarios=[knn,clustered_nearest,random_nearest]", "trainer.max_epochs=1") as (
        coordinator,
        scenarios,
    ):
        cell = Cell(K, K, seed)
        x, truth = probes(coordinator, cell)
        knn = trained(coordinator, cell, scenarios["knn"]).identify(x)
        for name in ("clustered_nearest", "random_nearest"):
            identifier = trained(coordinator, cell, scenarios[name])
            assert identifier.identify(x).index.tolist() == knn.index.tolist()
            embedding_set, splits = coordinator.embedding_set, coordinator.data(cell).splits
            accuracy = cluster_accuracy(identifier, identifier.router, embedding_set, splits.test)
            assert accuracy == pytest.approx(100 * np.mean(knn.index == truth))


@pytest.mark.parametrize("m", [2, 5])
@pytest.mark.parametrize("name", ["clustered_nearest", "random_nearest"])
def test_nearest_routing_is_never_more_accurate_than_its_clusters(coordinate, name, m):
    with coordinate(f"scenarios=[{name}]", "init=prototype") as (coordinator, scenarios):
        for seed in SEEDS:
            cell = Cell(K, m, seed)
            identifier = trained(coordinator, cell, scenarios[name])
            embedding_set, splits = coordinator.embedding_set, coordinator.data(cell).splits
            accuracy = evaluate(identifier, embedding_set, splits.test)[0]["accuracy"]
            assert 30 < accuracy <= cluster_accuracy(identifier, identifier.router, embedding_set, splits.test) + 1e-9


@pytest.mark.parametrize("m", [2, 5])
def test_the_clusters_of_the_top_p_class_means_lead_from_nearest_to_max_max(coordinate, m):
    with coordinate("scenarios=[clustered_nearest,clustered_maxmax]") as (coordinator, scenarios):
        cell = Cell(K, m, 0)
        nearest = trained(coordinator, cell, scenarios["clustered_nearest"])
        max_max = trained(coordinator, cell, scenarios["clustered_maxmax"])
        assert vars(max_max.router)["score"] == "cosine" and isinstance(max_max.router, MaxOutput)
        x, _ = probes(coordinator, cell)
        for p, expected in ((1, nearest), (K, max_max), (10 * K, max_max)):
            found, wanted = replace(nearest, router=NearestClass(p)).identify(x), expected.identify(x)
            assert found.index.tolist() == wanted.index.tolist() and found.cluster.tolist() == wanted.cluster.tolist()
            np.testing.assert_allclose(found.score, wanted.score, atol=1e-6)
        assert nearest.identify(x).index.tolist() != max_max.identify(x).index.tolist()  # else this shows nothing


def test_max_max_is_the_highest_cosine_over_everybody(coordinate):
    with coordinate("scenarios=[ism]") as (coordinator, scenarios):
        cell = Cell(K, 4, 0)
        identifier = trained(coordinator, cell, scenarios["ism"])
        x, _ = probes(coordinator, cell)
        cosine_BS = normalize(x.astype(np.float64)) @ normalize(identifier.heads.rows_SD.double().numpy()).T
        assert identifier.identify(x).index.tolist() == identifier.heads.identity_S[cosine_BS.argmax(axis=1)].tolist()


def test_scenarios_that_share_a_partition_share_its_sub_networks(coordinate):
    with coordinate() as (coordinator, scenarios):
        cell, files = Cell(K, 3, 0), lambda: len(list(coordinator.run.path.glob("subnetworks/*/?????.safetensors")))
        for name, in_all in (("knn", 0), ("no_distribution", 1), ("ism", 4), ("random_nearest", 4),
                             ("clustered_maxmax", 7), ("clustered_nearest", 7)):  # fmt: skip
            trained(coordinator, cell, scenarios[name])
            assert files() == in_all, name


def test_ism_and_no_distribution_differ_from_the_proposal_in_partition_and_rule_alone(coordinate):
    with coordinate() as (_, scenarios):
        proposal = scenarios["clustered_nearest"]
        for name in ("ism", "no_distribution", "random_nearest", "clustered_maxmax"):
            other = scenarios[name]
            assert other.recipe == proposal.recipe
