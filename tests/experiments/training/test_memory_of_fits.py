# SPDX-License-Identifier: MIT
"""Hundreds of sub-networks are trained in one process: what a fit leaves behind must not add up."""

import gc

import torch

from experiments.training.job import TrainingByEntry


def floats_alive() -> int:
    tensors = {}
    for item in gc.get_objects():
        if type(item) in (torch.Tensor, torch.nn.Parameter):
            tensors[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes() // 4
    return sum(tensors.values())


def test_a_fit_leaves_only_its_rows_to_the_garbage_collector(make_jobs):
    first, second = make_jobs("run")
    train = TrainingByEntry()
    train(first)
    gc.collect()
    gc.disable()
    try:
        before = floats_alive()
        train(second)
        left = floats_alive() - before
    finally:
        gc.enable()
    rows = second.record()["parameters"]
    # With moments, samples and the products of a step it would be 18 times the rows.
    assert left <= 5 * rows
