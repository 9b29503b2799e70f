# SPDX-License-Identifier: MIT
"""What onnxruntime answers is what PyTorch answers, for every router and decision that can be chosen."""

import json

import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.partitioners.base import Partition
from lightning_modules.decisions.argmax import Argmax
from lightning_modules.decisions.base import Decision
from lightning_modules.decisions.nearest_mean import NearestMean
from lightning_modules.identifier import Identifier
from lightning_modules.onnx_export import export_onnx, largest_difference, likely_probes
from lightning_modules.routers.cluster_mean import ClusterMean
from lightning_modules.routers.max_output import MaxOutput
from lightning_modules.routers.nearest_class import NearestClass
from lightning_modules.scores import Heads

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
D, M, K = 12, 5, 40


def make(router=None, decision=None, m=M, k=K, rows_per_class=1, extra=(), seed=0, threshold=None, lonely=False):
    random = np.random.default_rng(seed)
    home = np.r_[np.arange(m), random.integers(int(lonely), m, size=k - m)]  # lonely: cluster 0 has one person
    partition = Partition(home, m, np.array(extra, np.int32).reshape(-1, 2))
    means = random.standard_normal((k, D))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    rows = [
        torch.from_numpy(random.standard_normal((size * rows_per_class, D)).astype(np.float32))
        for size in partition.sizes()
    ]
    return Identifier(
        tuple(f"Zoë {i}" for i in range(k)), torch.from_numpy(means.astype(np.float32)), partition,
        decision or Argmax(), router, Heads.pack(partition, rows), threshold, {"scenario": "s", "extractor": "e"},
    )  # fmt: skip


IDENTIFIERS = {
    "nearest": dict(router=NearestClass()),
    "cluster mean": dict(router=ClusterMean()),
    "max-max": dict(router=MaxOutput()),
    "max-max, two rows each": dict(router=MaxOutput(), rows_per_class=2),
    "max-max, one alone": dict(router=MaxOutput(), lonely=True),
    "no distribution": dict(m=1),
    "one person": dict(m=1, k=1),
    "m = K": dict(router=NearestClass(), m=K),
    "knn": dict(decision=NearestMean(), m=1),
    "knn of clusters": dict(decision=NearestMean(), router=NearestClass()),
    "overlapping": dict(router=NearestClass(), extra=[(0, 3), (7, 1), (9, 4)]),
    "threshold": dict(router=NearestClass(), threshold=0.9),
}


def answers(path, probes):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"embeddings": probes}), strict=True)), session


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_answers_are_those_of_pytorch_whatever_the_batch(name, tmp_path):
    identifier = make(**IDENTIFIERS[name])
    export_onnx(identifier, tmp_path / "a.onnx")
    for batch in (1, 7, 300, 0):
        probes = np.random.default_rng(1).standard_normal((batch, D)).astype(np.float32) * 7
        found, _ = answers(tmp_path / "a.onnx", probes)
        expected = identifier.identify(probes)
        assert found["index"].dtype == np.int64 and found["index"].tolist() == expected.index.tolist()
        assert found["cluster"].tolist() == expected.cluster.tolist()
        np.testing.assert_allclose(found["score"], expected.score, atol=1e-5)
        assert {value.shape for value in found.values()} == {(batch,)}
    assert largest_difference(identifier, tmp_path / "a.onnx", likely_probes(identifier))[0] == 0


def test_under_the_threshold_is_minus_one_and_the_best_stays(tmp_path):
    identifier = make(NearestClass(), threshold=1.5)
    export_onnx(identifier, tmp_path / "a.onnx")
    found, _ = answers(tmp_path / "a.onnx", likely_probes(identifier, 50))
    assert {-1} < set(found["index"]) and (found["best"] >= 0).all()
    assert ((found["index"] < 0) == (found["score"] < 1.5)).all()


@pytest.mark.parametrize("threshold", [None, 0.1])
@pytest.mark.parametrize("router", [NearestClass(), ClusterMean(), MaxOutput()])
def test_a_probe_without_direction_is_nobody_and_changes_no_other_answer(tmp_path, router, threshold):
    identifier = make(router, threshold=threshold)
    export_onnx(identifier, tmp_path / "a.onnx")
    good = likely_probes(identifier, 7)
    probes = good.copy()
    probes[1, 3], probes[2, 0], probes[4, 5], probes[5] = np.nan, np.inf, -np.inf, 0
    expected, found = answers(tmp_path / "a.onnx", good)[0], answers(tmp_path / "a.onnx", probes)[0]
    for name, value in found.items():
        bad, rest = value[[1, 2, 4, 5]], [0, 3, 6]
        assert (np.isnan(bad) if value.dtype == np.float32 else bad == -1).all(), name
        np.testing.assert_array_equal(value[rest], expected[name][rest])


@pytest.mark.parametrize("factor", [1e25, 1e-25, 1e-38])
def test_the_length_of_a_probe_does_not_matter(tmp_path, factor):
    identifier = make(NearestClass(), threshold=0.1)
    export_onnx(identifier, tmp_path / "a.onnx")
    probes = likely_probes(identifier, 50).astype(np.float64)
    one, other = (answers(tmp_path / "a.onnx", (f * probes).astype(np.float32))[0] for f in (1, factor))
    for name, value in other.items():
        np.testing.assert_allclose(value, one[name], rtol=0, atol=1e-5)


def test_the_runner_up_is_the_nearest_class_mean_of_another_person(tmp_path):
    identifier = make(ClusterMean())
    export_onnx(identifier, tmp_path / "a.onnx")
    probes = np.random.default_rng(2).standard_normal((60, D)).astype(np.float32)
    found, _ = answers(tmp_path / "a.onnx", probes)
    cosine = probes / np.linalg.norm(probes, axis=1, keepdims=True) @ identifier.class_means_KD.numpy().T
    cosine[np.arange(60), found["best"]] = -2
    assert found["runner_up"].tolist() == cosine.argmax(1).tolist()
    np.testing.assert_allclose(found["runner_up_cosine"], cosine.max(1), atol=1e-5)


def test_the_file_knows_the_names(tmp_path):
    identifier = make(NearestClass(), threshold=0.25)
    export_onnx(identifier, tmp_path / "a.onnx")
    _, session = answers(tmp_path / "a.onnx", np.ones((1, D), np.float32))
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert tuple(facts["identities"]) == identifier.identities and facts["threshold"] == 0.25
    assert facts["extractor"] == "e" and session.get_inputs()[0].shape == ["batch", D]


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path):
    identifier = make(NearestClass())
    export_onnx(identifier, tmp_path / "a.onnx", one_file_bytes=100)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    assert largest_difference(identifier, tmp_path / "a.onnx", likely_probes(identifier))[0] == 0


def test_what_does_not_state_its_export_is_refused_and_leaves_nothing(tmp_path):
    class Own(Decision):
        def decide(self, scores, clusters_BP):
            raise NotImplementedError

    with pytest.raises(InputError, match="decision Own"):
        export_onnx(make(NearestClass(), Own()), tmp_path / "a.onnx")
    with pytest.raises(InputError, match="p = 2"):
        export_onnx(make(NearestClass(2)), tmp_path / "a.onnx")
    with pytest.raises(InputError, match="by probability"):
        export_onnx(make(MaxOutput("probability")), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_noticed(tmp_path):
    export_onnx(make(NearestClass(), seed=1), tmp_path / "a.onnx")
    other = make(NearestClass())
    differing, largest = largest_difference(other, tmp_path / "a.onnx", likely_probes(other))
    assert differing > 100 and largest > 0.1
