# SPDX-License-Identifier: MIT
"""Checkpoints as files: what comes back, and what is refused."""

import itertools
import logging
import math

import pytest
import torch

from callbacks.checkpoints import SafetensorsIO, epoch_files, newest_checkpoint
from datamodules.errors import InputError

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool)  # fmt: skip
SHARED = torch.arange(12.0).reshape(3, 4)
TREE = {
    "epoch": 3,
    "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2, 3)}, 1: {}}, "groups": []}],
    "numbers": (1, -(2**60), True, False, None, 0.1, math.inf, -math.inf, 1e-320, "käse\n"),
    "nested": ((), [], {}, [(1,), [2, (3, None)]]),
    "keys": {1: "int", "1": "string"},
    "dtypes": [torch.tensor([0, 1, 100]).to(dtype) for dtype in DTYPES],
    "odd values": torch.tensor([math.nan, math.inf, -0.0]),
    "empty": torch.zeros(0, 3),
    "shared": (SHARED, SHARED[1:], SHARED.T, SHARED[:, ::2], torch.nn.Parameter(SHARED)),
    "a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, "tensor": {"tensor": "not one"}, 1: torch.tensor(3),
    "1": torch.tensor(4),
}  # fmt: skip


def assert_same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and not found.requires_grad
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0, equal_nan=True)
    else:
        assert type(found) is type(expected)
        if isinstance(expected, dict):
            assert list(found) == list(expected)
            found, expected = list(found.values()), list(expected.values())
        if isinstance(expected, (list, tuple)):
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)
        else:
            assert found == expected


def test_a_tree_of_values_comes_back_as_it_was(tmp_path):
    SafetensorsIO("key").save_checkpoint(TREE, tmp_path / "new" / "a.safetensors")
    assert_same(SafetensorsIO("key").load_checkpoint(tmp_path / "new" / "a.safetensors"), TREE)
    assert (
        math.copysign(1, SafetensorsIO("key").load_checkpoint(tmp_path / "new" / "a.safetensors")["odd values"][2]) < 0
    )
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_fast_epochs_wait_for_the_disk_about_once_a_second(tmp_path, monkeypatch):
    """A power cut then costs about a second of training."""
    clock, waits = itertools.count(0, 0.3), []
    monkeypatch.setattr("callbacks.checkpoints.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("os.fsync", waits.append)
    (tmp_path / "a").mkdir()
    io = SafetensorsIO("key")
    for epoch in range(30):  # 9 s
        io.save_checkpoint({**SMALL, "epoch": epoch}, tmp_path / "a" / "a.safetensors")
    assert 2 * 6 <= len(waits) <= 2 * 9  # the file and its folder


SMALL = {"epoch": 0, "state": {"weight": torch.arange(3.0)}, "name": "x"}


def test_every_flipped_bit_and_every_truncation_is_refused_or_changes_nothing(tmp_path):
    """Bits of the header's padding and of a fact that nobody reads may change; what is read may not."""
    file, io = tmp_path / "a.safetensors", SafetensorsIO("key")
    io.save_checkpoint(SMALL, file)
    whole, refused = file.read_bytes(), 0
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    damaged += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for content in damaged:
        file.write_bytes(content)
        try:
            assert_same(io.load_checkpoint(file), SMALL)
        except InputError:
            refused += 1
    assert refused > 0.9 * len(damaged)


def test_a_file_of_another_lineage_is_refused(tmp_path):
    SafetensorsIO("one").save_checkpoint(SMALL, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="lineage one; expected other"):
        SafetensorsIO("other").load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "value, place", [({"a": [1, {2}]}, "set at /callbacks/a/1"), ({"b": {(1, 2): 3}}, "tuple .* /callbacks/b")]
)
def test_a_value_that_cannot_be_written_is_named_by_its_place(tmp_path, value, place):
    with pytest.raises(TypeError, match=place):
        SafetensorsIO("key").save_checkpoint({**SMALL, "callbacks": value}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_intact_checkpoint_is_found_and_damaged_ones_go(tmp_path, caplog):
    stem, io = tmp_path / "key" / "00001", SafetensorsIO("line")
    assert newest_checkpoint(stem, "line", 9) is None
    for epoch in range(3):
        io.save_checkpoint(SMALL, f"{stem}.epoch-{epoch:04d}.safetensors")
    SafetensorsIO("line").save_checkpoint(SMALL, f"{stem}0.epoch-0007.safetensors")  # of another job
    last = epoch_files(stem)[2]
    last.write_bytes(last.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(stem, "line", 9) == epoch_files(stem)[1]
    assert sorted(epoch_files(stem)) == [0, 1] and "truncated" in caplog.text or "unreadable" in caplog.text


def test_a_fit_of_fewer_epochs_and_the_same_lineage_can_be_gone_on_from(tmp_path):
    for key, lineage, epoch in (("a", "line", 4), ("b", "line", 9), ("c", "other", 5), ("d", "line", 2)):
        SafetensorsIO(lineage).save_checkpoint(SMALL, tmp_path / key / f"00001.epoch-{epoch:04d}.safetensors")
    found = newest_checkpoint(tmp_path / "new" / "00001", "line", 8)
    assert found == tmp_path / "a" / "00001.epoch-0004.safetensors"
    assert newest_checkpoint(tmp_path / "new" / "00002", "line", 8) is None
    assert (tmp_path / "c" / "00001.epoch-0005.safetensors").is_file()
