# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch

from datamodules.errors import InputError
from datamodules.label_cluster_datamodule import LabelClusterDataModule, RowBatches
from datamodules.multilabel import RowSplit


def batches(n=10, size=3, **arguments):
    return RowBatches(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)[:, None] * 2.0, size, **arguments)


def order_of(loader):
    inputs = torch.cat([x for x, _ in loader])
    torch.testing.assert_close(torch.cat([y for _, y in loader]), inputs * 2)
    return inputs.ravel().int().tolist()


def test_an_epoch_has_every_row_once_and_its_order_depends_on_seed_stream_and_epoch_alone():
    loader = batches(seed=1, stream=2)
    first = order_of(loader)
    assert sorted(first) == list(range(10)) and [len(x) for x, _ in loader] == [3, 3, 3, 1] and len(loader) == 4
    loader.epoch = lambda: 1
    second = order_of(loader)
    assert second != first
    assert order_of(batches(seed=1, stream=2, epoch=lambda: 1)) == second
    assert order_of(batches(seed=1, stream=3)) != first and order_of(batches(seed=2, stream=2)) != first


def test_without_seed_rows_come_in_order_and_without_size_at_once():
    assert order_of(batches()) == list(range(10))
    assert [len(x) for x, _ in batches(size=None, seed=0)] == [10]


LABELS = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [1, 1], [0, 0], [0, 1]], bool)
SPLIT = RowSplit(np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6]))
INPUTS = torch.arange(7.0)[:, None]


def rows_of(data):
    return [loader.inputs_NK.ravel().int().tolist() for loader in (data.train_dataloader(), data.val_dataloader())]


def test_rows_without_a_label_are_dropped_in_training_and_validation():
    data = LabelClusterDataModule(INPUTS, LABELS, SPLIT, drop_rows=True)
    assert rows_of(data) == [[0, 2], [4]]
    torch.testing.assert_close(data.train[1], torch.tensor([[1.0, 0], [0, 1]]))
    assert rows_of(LabelClusterDataModule(INPUTS, LABELS, SPLIT, drop_rows=False)) == [[0, 1, 2], [3, 4]]


def test_validation_keeps_its_rows_if_none_has_a_label():
    split = RowSplit(np.array([0, 1, 2]), np.array([3, 5]), np.array([4, 6]))
    assert rows_of(LabelClusterDataModule(INPUTS, LABELS, split)) == [[0, 2], [3, 5]]


def test_a_cluster_nobody_has_a_label_of_is_refused():
    with pytest.raises(InputError, match="without a training row"):
        LabelClusterDataModule(INPUTS, LABELS, RowSplit(np.array([1, 3]), np.array([0]), np.array([2])))
