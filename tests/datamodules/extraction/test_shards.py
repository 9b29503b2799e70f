# SPDX-License-Identifier: MIT
"""The store of finished shards, and how batches run through it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import InputError
from datamodules.extraction.loading import ShardBatches
from datamodules.extraction.shards import ShardStore


def test_what_is_written_and_finished_is_there_for_the_next_process(tmp_path):
    store = ShardStore(tmp_path / "s", 10, 3, "float32", 4)
    store.create()
    store.write(np.array([4, 6]), np.ones((2, 3)))
    store.finish(1, {5: "no face found", 7: "empty"})
    again = ShardStore(tmp_path / "s", 10, 3, "float32", 4)
    again.create()
    assert again.pending() == [0, 2] and again.rejected() == {5: "no face found", 7: "empty"}
    np.testing.assert_array_equal(again.embeddings()[:, 0], [0, 0, 0, 0, 1, 0, 1, 0, 0, 0])


def test_the_file_is_an_ordinary_npy_of_full_size_from_the_start(tmp_path):
    store = ShardStore(tmp_path, 7, 5, "float16", 3)
    store.create()
    loaded = np.load(tmp_path / "embeddings.npy")
    assert loaded.shape == (7, 5) and loaded.dtype == np.float16 and not loaded.any()


def test_a_file_of_another_run_is_refused(tmp_path):
    ShardStore(tmp_path, 7, 5, "float16", 3).create()
    with pytest.raises(InputError, match=r"shape \(7, 5\).*\(8, 5\)"):
        ShardStore(tmp_path, 8, 5, "float16", 3).embeddings()
    with pytest.raises(InputError, match="float16"):
        ShardStore(tmp_path, 7, 5, "float32", 3).embeddings()


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 9), st.integers(1, 4))
def test_batches_cover_every_row_once_whatever_the_number_of_devices(
    tmp_path_factory, n_rows, shard_rows, batch_size, devices
):
    store = ShardStore(tmp_path_factory.getbasetemp() / "unused", n_rows, 1, "float32", shard_rows)
    seen = []
    for device in range(devices):
        batches = ShardBatches(store, list(range(store.n_shards))[device::devices], batch_size)
        listed = list(batches)
        assert len(listed) == len(batches)
        assert all(len(batch) <= batch_size and len({row // shard_rows for row in batch}) == 1 for batch in listed)
        seen += [row for batch in listed for row in batch]
    assert sorted(seen) == list(range(n_rows))
