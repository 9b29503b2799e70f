# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from sklearn.preprocessing import normalize

from datamodules import class_means as module
from datamodules.class_means import class_means, normalise_rows
from datamodules.splits import Split


def brute_force(embeddings, split, k):
    unit = normalize(embeddings[split.rows].astype(np.float64))
    return normalize(np.stack([unit[split.labels == label].mean(axis=0) for label in range(k)]))


@pytest.fixture
def data(people):
    embeddings, labels, _ = people(n_identities=6)
    rows = np.sort(np.random.default_rng(2).permutation(len(labels))[: len(labels) * 2 // 3])
    return embeddings, Split(rows.astype(np.int64), labels[rows])


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 65_536])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float16", 1e-6)])
def test_means_are_those_of_a_loop_whatever_the_chunk(data, monkeypatch, chunk_rows, dtype, tolerance):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    embeddings, split = data
    embeddings = embeddings.astype(dtype)
    means = class_means(embeddings, split, 6)
    assert means.dtype == np.float32 and means.shape == (6, 8)
    np.testing.assert_allclose(means, brute_force(embeddings, split, 6), atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, atol=1e-6)


def test_a_memory_map_is_read_and_not_changed(data, tmp_path):
    embeddings, split = data
    np.save(tmp_path / "a.npy", embeddings)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_allclose(class_means(mapped, split, 6), class_means(embeddings, split, 6), atol=1e-6)
    assert np.array_equal(np.load(tmp_path / "a.npy"), embeddings)


@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e3, 1e20])
def test_the_length_of_an_embedding_says_nothing(data, factor):
    embeddings, split = data
    stretched = embeddings.copy()
    stretched[::2] *= factor
    np.testing.assert_allclose(class_means(stretched, split, 6), class_means(embeddings, split, 6), atol=1e-6)


def test_means_turn_with_the_embeddings(data):
    embeddings, split = data
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0].astype(np.float32)
    np.testing.assert_allclose(
        class_means(embeddings @ rotation, split, 6), class_means(embeddings, split, 6) @ rotation, atol=1e-6
    )


def test_embeddings_that_cancel_out_have_a_mean_of_zeros():
    embeddings = np.array([[3, 4], [-3, -4], [1, 0]], np.float32)
    means = class_means(embeddings, Split(np.arange(3), np.array([0, 0, 1], np.int32)), 2)
    assert means.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    "dtype, number",
    [
        ("float16", 65504),
        ("float16", 6e-8),
        ("float32", 3e38),
        ("float32", 1e20),
        ("float32", 1e-25),
        ("float32", 1e-44),
    ],
)
def test_the_largest_and_the_smallest_numbers_have_a_direction(dtype, number):
    np.testing.assert_allclose(normalise_rows(np.full((1, 4), -number, dtype)), -0.5, rtol=1e-6)
    assert normalise_rows(np.zeros((1, 4), dtype)).tolist() == [[0] * 4]
