# SPDX-License-Identifier: MIT
"""Errors, ranks and open-set rates of a scenario against plain counting. Axes: B probes, K identities, M clusters."""

import numpy as np
import pytest
import torch

from datamodules.embedding_set import EmbeddingSet
from datamodules.partitioners.base import Partition
from datamodules.splits import split_identities
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.open_set_evaluation import answers, error_rows, open_set_rows, rank_rows
from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.scores import Heads

K, M = 24, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 10)
    rows = random.standard_normal((30, 8))[labels] + 0.9 * random.standard_normal((300, 8))
    folder = tmp_path_factory.mktemp("set") / "data"
    EmbeddingSet.write(folder, rows.astype(np.float32), labels.astype(np.int32), [f"p{i}" for i in range(30)])
    embedding_set = EmbeddingSet.open(folder)
    splits = split_identities(embedding_set, K, 0, held_out=0.2)
    means = torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((K, 8)).astype(np.float32)))
    for k in range(K):
        own = embedding_set.embeddings[splits.train.rows[splits.train.labels == k]]
        means[k] = torch.nn.functional.normalize(torch.from_numpy(np.array(own)), dim=1).mean(0)
    means = torch.nn.functional.normalize(means)
    partition = Partition(np.arange(K) % M, M)
    heads = Heads.pack(partition, [means[torch.from_numpy(partition.members(c).astype(np.int64))] for c in range(M)])
    names = tuple(map(str, range(K)))
    made = {
        "routed": Identifier(names, means, partition, Argmax(), ClusterMean(), heads),
        "all": Identifier(names, means, partition, NearestMean()),
    }
    return embedding_set, splits, made


@pytest.mark.parametrize("which", ["routed", "all"])
def test_answers_ranks_and_reached_clusters_are_those_of_plain_loops(world, which):
    embedding_set, splits, made = world
    identifier, test = made[which], splits.test
    found = answers(identifier, embedding_set, test)
    means = identifier.class_means_KD.numpy()
    centres = np.stack([means[identifier.partition.members(c)].mean(0) for c in range(M)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for n, (row, truth) in enumerate(zip(test.rows, test.labels, strict=True)):
        x = embedding_set.embeddings[row] / np.linalg.norm(embedding_set.embeddings[row])
        cluster = (centres @ x).argmax()
        looked = identifier.partition.members(cluster) if which == "routed" else np.arange(K)
        order = sorted(looked, key=lambda k: -(means[k] @ x))
        assert found.decided.identity_B[n] == order[0]
        assert found.reached_N[n] == (truth in looked)
        rank = order.index(truth) + 1 if truth in looked else 0
        assert found.rank_N[n] == (rank if rank <= 20 else 0)
        cosines = [float(means[k] @ x) for k in order]
        assert found.scores["own"][n] == pytest.approx(cosines[0], abs=1e-5)
        assert found.scores["class_mean"][n] == pytest.approx(cosines[0], abs=1e-5)
        assert found.scores["lead"][n] == pytest.approx(cosines[0] - cosines[1], abs=1e-5)


def test_error_rows_add_up_and_name_the_worst_cluster(world):
    embedding_set, splits, made = world
    found = answers(made["routed"], embedding_set, splits.test)
    recall_K = np.array([100 * np.mean(found.rank_N[splits.test.labels == k] == 1) for k in range(K)])
    (row,) = error_rows(found, recall_K, made["routed"], scenario="x")
    assert row["correct"] + row["wrong_cluster"] + row["wrong_class"] == pytest.approx(100)
    by_cluster = [recall_K[np.arange(K) % M == c].mean() for c in range(M)]
    assert row["worst_cluster"] == int(np.argmin(by_cluster))
    assert row["worst_cluster_recall"] == pytest.approx(min(by_cluster))
    rates = [one["identification_rate"] for one in rank_rows(found, scenario="x")]
    assert len(rates) == 20 and rates[0] == pytest.approx(row["correct"]) and (np.diff(rates) >= 0).all()


def test_a_rate_that_cannot_be_told_has_a_row_that_says_so(world):
    embedding_set, splits, made = world
    found = answers(made["routed"], embedding_set, splits.test)
    rows, curve = open_set_rows(found, made["routed"], embedding_set, splits, scenario="x", seed=0)
    assert {row["score"] for row in rows} == {"own", "class_mean", "lead"}
    for row in rows:  # 60 probes of 6 persons tell neither 1 % nor 0.1 %
        assert "needs" in row["unresolved"] and "60 probes" in row["unresolved"] and row["tpir"] is None
    assert curve and all(0 < point["fpir"] <= 100 and 0 <= point["fnir"] <= 100 for point in curve)
