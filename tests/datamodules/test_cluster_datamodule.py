# SPDX-License-Identifier: MIT
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.cluster_datamodule import ClusterDataModule, IndexBatches, local_split
from datamodules.splits import Split
from tests.rounding import rounding

N, DIM = 23, 3


@pytest.fixture
def rows():
    """Embeddings whose first number is the row, and a split of every second row."""
    embeddings = np.arange(2 * N * DIM, dtype=np.float32).reshape(2 * N, DIM)
    embeddings[:, 0] = np.arange(2 * N)
    return embeddings, Split(np.arange(0, 2 * N, 2), np.sort(np.arange(N) % 5).astype(np.int32))


def seen(batches):
    """Row numbers of every batch."""
    return [(batch.unit_BD[:, 0] * batch.length_B).round().to(int).tolist() for batch in batches]


def test_local_labels_are_places_among_the_members():
    split = Split(np.arange(8), np.array([0, 0, 1, 2, 2, 4, 5, 5], np.int32))
    local = local_split(split, np.array([0, 2, 5], np.int32))
    assert local.rows.tolist() == [0, 1, 3, 4, 6, 7] and local.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert local.labels.dtype == np.int32
    assert len(local_split(split, np.array([3], np.int32))) == 0


def test_the_clusters_of_a_partition_share_out_all_samples(toy_split):
    _, splits = toy_split
    cluster_of = np.random.default_rng(0).integers(3, size=splits.n_identities)
    members = [np.flatnonzero(cluster_of == c) for c in range(3)]
    parts = [local_split(splits.train, m) for m in members]
    assert sorted(np.concatenate([part.rows for part in parts])) == splits.train.rows.tolist()
    truth = dict(zip(splits.train.rows.tolist(), splits.train.labels.tolist(), strict=True))
    for part, m in zip(parts, members, strict=True):
        assert [truth[row] for row in part.rows.tolist()] == m[part.labels].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, N, 100])
def test_an_epoch_serves_every_sample_once_with_its_label(rows, batch_size):
    embeddings, split = rows
    label_of = dict(zip(split.rows.tolist(), split.labels.tolist(), strict=True))
    batches = IndexBatches(embeddings, split, batch_size, shuffle=True)
    served = list(batches)
    assert len(served) == len(batches) == -(-N // batch_size)
    assert sorted(sum(seen(served), [])) == split.rows.tolist()
    for numbers, (unit_BD, target_B, length_B, weight) in zip(seen(served), served, strict=True):
        assert unit_BD.dtype == length_B.dtype == torch.float32 and target_B.dtype == torch.int64 and weight == 1
        assert [label_of[row] for row in numbers] == target_B.tolist()
        np.testing.assert_allclose(unit_BD * length_B[:, None], embeddings[numbers], rtol=1e-6)
        np.testing.assert_allclose(length_B, np.linalg.norm(embeddings[numbers], axis=1), rtol=1e-6)
    assert all(len(batch.target_B) == batch_size for batch in served[:-1])


def test_unshuffled_batches_come_in_order(rows):
    assert sum(seen(IndexBatches(*rows, 4)), []) == rows[1].rows.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_read_from_disk_are_those_kept_in_memory(rows, tmp_path, dtype):
    embeddings, split = rows
    np.save(tmp_path / "a.npy", embeddings.astype(dtype))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    kept = list(IndexBatches(mapped, split, 4, shuffle=True))
    read = list(IndexBatches(mapped, split, 4, shuffle=True, resident_bytes=0))
    for one, other in zip(kept, read, strict=True):
        assert torch.equal(one.target_B, other.target_B)
        for a, b in ((one.length_B, other.length_B), (one.unit_BD, other.unit_BD)):  # norms of blocks of other sizes
            torch.testing.assert_close(a, b, rtol=2 * rounding(DIM), atol=0)


@pytest.mark.parametrize("factor", [1e-25, 1e20, 1e36])
def test_lengths_far_from_one_neither_overflow_nor_vanish(rows, factor):
    embeddings, split = rows
    (usual,), (extreme,) = (IndexBatches(embeddings * np.float32(scale), split, N) for scale in (1, factor))
    torch.testing.assert_close(extreme.unit_BD, usual.unit_BD)
    torch.testing.assert_close(extreme.length_B, usual.length_B * factor)
    (longest,) = IndexBatches(np.full((1, 9), 3e38, np.float32), Split(np.arange(1), np.zeros(1, np.int32)), 1)
    assert torch.isfinite(longest.length_B).all(), "the length itself may be beyond float32"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux")
def test_few_rows_far_apart_are_read_without_what_is_between_them(tmp_path):
    import resource

    np.save(tmp_path / "a.npy", np.ones((100_000, 64), np.float32))
    rows = np.arange(0, 100_000, 1_000)
    split = Split(rows, np.zeros(100, np.int32))

    def opened():
        return np.load(tmp_path / "a.npy", mmap_mode="r")

    def blocks_read(read):
        with open(tmp_path / "a.npy", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # but for what a process has mapped
        before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        read()
        return resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before

    plainly = blocks_read(lambda: opened()[rows])
    if plainly < 1_000:
        pytest.skip("a file system in memory")
    mapped = opened()
    assert blocks_read(lambda: IndexBatches(mapped, split, 100)) < plainly / 4
    assert blocks_read(lambda: mapped[rows + 500]) > plainly / 2, "the map is as before"


def test_an_embedding_without_direction_stays_zero():
    (batch,) = IndexBatches(np.zeros((2, 3), np.float16), Split(np.arange(2), np.zeros(2, np.int32)), 2)
    assert batch.unit_BD.tolist() == [[0.0] * 3] * 2 and batch.length_B.tolist() == [0, 0]


def test_an_epoch_read_from_disk_may_be_left_early_and_an_error_in_reading_is_not_lost(rows):
    embeddings, split = rows
    batches = IndexBatches(embeddings, split, 4, shuffle=True, resident_bytes=0)
    next(iter(batches))
    assert len(sum(seen(batches), [])) == N
    batches.embeddings_ND = embeddings[:10]
    with pytest.raises(IndexError):
        list(batches)


def test_the_order_depends_on_seed_sub_network_and_epoch_alone(rows):
    def order(seed=0, stream=0, epoch=0, before=()):
        now = [0]
        batches = IndexBatches(*rows, 4, seed, stream, shuffle=True, epoch=lambda: now[0])
        for now[0] in before:
            list(batches)
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002 the global state must not matter
        now[0] = epoch
        return tuple(sum(seen(batches), []))

    assert order(1, 2, 3) == order(1, 2, 3) == order(1, 2, 3, before=(0, 1, 2))
    orders = [order(seed, stream, epoch) for seed in (0, 1) for stream in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 8


@given(
    n=st.integers(1, 40), batch_size=st.integers(1, 12), world=st.integers(1, 4), resident=st.sampled_from([None, 0])
)
def test_processes_share_out_each_batch_and_their_weighted_means_are_its_mean(n, batch_size, world, resident):
    embeddings = np.arange(1, n + 1, dtype=np.float32)[:, None]
    split = Split(np.arange(n), np.zeros(n, np.int32))
    together = seen(IndexBatches(embeddings, split, batch_size, shuffle=True))
    ranks = [IndexBatches(embeddings, split, batch_size, 0, 0, True, rank, world, resident) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {len(together)}
    for whole, *parts in zip(together, *map(list, ranks), strict=True):
        numbers, weights = seen(parts), [part.weight for part in parts]
        assert min(map(len, numbers)) >= 1, "the mean loss of an empty batch is NaN, and the sum over processes with it"
        counted = [part for part, weight in zip(numbers, weights, strict=True) if weight]
        assert sorted(sum(counted, [])) == sorted(whole) and weights.count(0) == max(0, world - len(whole))
        mean = np.mean([weight * np.mean(part) for weight, part in zip(weights, numbers, strict=True)])
        assert mean == pytest.approx(np.mean(whole)) and np.mean(weights) == pytest.approx(1)


@pytest.mark.parametrize("shared, of_the_batch", [(True, 3), (False, 8)])
def test_ranks_share_a_batch_or_each_takes_all_of_it(toy_split, shared, of_the_batch):
    data = ClusterDataModule.of_cluster(*toy_split, np.array([1, 4, 5, 9]), batch_size=8)
    data.shared = shared
    data.trainer = SimpleNamespace(
        global_rank=1, world_size=3, current_epoch=0, strategy=SimpleNamespace(root_device="cpu")
    )
    assert len(next(iter(data.train_dataloader())).target_B) == of_the_batch


def test_the_data_module_serves_training_shuffled_and_validation_in_order(toy_split):
    embedding_set, splits = toy_split
    members = np.array([1, 4, 5, 9], np.int32)
    data = ClusterDataModule.of_cluster(embedding_set, splits, members, batch_size=4, seed=1, stream=2)
    train = np.concatenate([batch.target_B.numpy() for batch in data.train_dataloader()])
    val = np.concatenate([batch.target_B.numpy() for batch in data.val_dataloader()])
    assert np.bincount(train).tolist() == [int((splits.train.labels == k).sum()) for k in members]
    assert val.tolist() == [members.tolist().index(k) for k in splits.val.labels if k in members]
    assert not np.array_equal(train, np.sort(train))
    again, other = (
        ClusterDataModule.of_cluster(
            embedding_set, splits, members, batch_size=4, seed=seed, stream=2
        ).train_dataloader()
        for seed in (1, 3)
    )
    assert np.array_equal(np.concatenate([batch.target_B.numpy() for batch in again]), train)
    assert not np.array_equal(np.concatenate([batch.target_B.numpy() for batch in other]), train)
