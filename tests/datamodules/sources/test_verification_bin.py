# SPDX-License-Identifier: MIT
"""InsightFace's pickles of pictures and booleans are read, and nothing in them is ever run."""

import os
import pickle
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from datamodules.errors import InputError
from datamodules.sources.verification_bin import VerificationBin, read_bin

PICTURES = [b"\xff\xd8" + bytes(range(256)) * place + b"\x00\n" for place in range(8)]
SAME = [True, False, True, False]


def python_2(pictures, same):
    """What `pickle.dump(..., protocol=2)` of Python 2 writes, whose bytes are strings."""
    parts = [b"\x80\x02]q\x00("]
    for place, one in enumerate(pictures):
        parts += [b"U" + bytes([len(one)]) if len(one) < 256 else b"T" + struct.pack("<i", len(one)), one]
        parts.append(b"q" + bytes([place + 1]))
    return b"".join([*parts, b"e]q\x64(", *(b"\x88" if one else b"\x89" for one in same), b"e\x86q\x65."])


WRITTEN = {
    **{f"protocol {protocol}": pickle.dumps((PICTURES, SAME), protocol) for protocol in (2, 3, 4, 5)},
    "a list of both": pickle.dumps([PICTURES, SAME], 4),
    "python 2": python_2(PICTURES, SAME),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_files_of_every_protocol(tmp_path, kind):
    (tmp_path / "lfw.bin").write_bytes(WRITTEN[kind])
    pictures, same = read_bin(tmp_path / "lfw.bin")
    assert pictures == PICTURES and same.tolist() == SAME and same.dtype == bool


def test_a_file_with_more_than_a_batch_of_pictures(tmp_path):
    pictures = [struct.pack("<I", place) for place in range(5000)]  # pickle appends 1,000 at a time
    (tmp_path / "x.bin").write_bytes(pickle.dumps((pictures, [True, False] * 1250), 2))
    assert read_bin(tmp_path / "x.bin")[0] == pictures


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ENCODE_BOMB = (
    b"\x80\x02]q\x00(c_codecs\nencode\nq\x01X" + struct.pack("<I", 50_000) + b"a" * 50_000 + b"q\x02"
    b"X\x06\x00\x00\x00latin1\x86q\x03R" + b"h\x01h\x03R" * 20_000 + b"e."
)  # fmt: skip
HUGE = b"\x80\x04]\x94(\x8e" + struct.pack("<Q", 1 << 60) + b"abc"
REFUSED = {
    "a command": pickle.dumps((PICTURES, [Hostile(os.system, "touch hacked")]), 2),
    "a command in a new protocol": pickle.dumps(([Hostile(os.system, "touch hacked")], SAME), 5),
    "eval": pickle.dumps(Hostile(eval, "open('hacked', 'w')"), 2),
    "an old protocol": pickle.dumps((PICTURES, SAME), 0),
    "another function of codecs": b"\x80\x02c_codecs\nlookup\nX\x01\x00\x00\x00a\x85R.",
    "another encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "an array": pickle.dumps(([np.frombuffer(one, np.uint8) for one in PICTURES], SAME), 4),
    "numbers": pickle.dumps((PICTURES, [1, 0, 1, 0]), 4),
    "texts": pickle.dumps((["a"] * 8, SAME), 4),
    "nothing": pickle.dumps(([], []), 4),
    "too few booleans": pickle.dumps((PICTURES, SAME[:3]), 4),
    "one list": pickle.dumps(PICTURES, 4),
    "a dictionary": pickle.dumps({"bins": PICTURES, "same": SAME}, 4),
    "empty": b"",
    "cut off": WRITTEN["protocol 4"][:-40],
    "a picture": PICTURES[3],
    "a huge length": HUGE,
    "a memo that is not there": b"\x80\x02h\x05.",
    "a list in itself": b"\x80\x02]q\x00h\x00ah\x00\x86.",
    "deep lists": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "deep tuples": b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
    "the same text very often": ENCODE_BOMB,
    "a huge number": b"\x80\x02" + b"L" + b"9" * 100_000 + b"L\n.",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_costs_one_line_and_runs_nothing(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(REFUSED[kind])
    tracemalloc.start()
    with pytest.raises(InputError) as refused:
        read_bin(tmp_path / "x.bin")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"] and peak < 1 << 26, f"{peak:,} bytes"


def test_the_function_that_is_asked_for_is_named(tmp_path):
    (tmp_path / "x.bin").write_bytes(REFUSED["a command"])
    with pytest.raises(InputError, match="GLOBAL posix system"):
        read_bin(tmp_path / "x.bin")


def only_refuses(folder, content):
    """Any end but a valid answer or an InputError, and any import, fails."""
    (folder / "x.bin").write_bytes(content)
    before = set(sys.modules)
    try:
        pictures, same = read_bin(folder / "x.bin")
        assert all(type(one) is bytes for one in pictures) and len(pictures) == 2 * len(same)
    except InputError as error:
        assert "\n" not in str(error)
    assert set(sys.modules) == before


@given(content=st.binary(max_size=400), protocol=st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
def test_random_bytes(tmp_path_factory, content, protocol):
    only_refuses(tmp_path_factory.mktemp("any"), protocol + content)


# Instructions that the reader follows, in any order, are likelier to go wrong than random bytes.
INSTRUCTION = st.sampled_from(
    [b"]", b"(", b")", b"a", b"e", b"l", b"t", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"q\x00", b"h\x00", b"\x94",
     b"U\x01a", b"C\x01b", b"\x8c\x07_codecs", b"\x8c\x06encode", b"\x8c\x06latin1", b"c_codecs\nencode\n", b"R",
     b"\x93", b"cos\nsystem\n", b"0", b"1", b"2", b"N", b"b", b"\x81", b"}", b"\x8f", b"\x96" + b"\xff" * 8, b"."]
)  # fmt: skip


@given(program=st.lists(INSTRUCTION, max_size=40))
def test_random_programs(tmp_path_factory, program):
    only_refuses(tmp_path_factory.mktemp("any"), b"\x80\x04" + b"".join(program) + b".")


@given(kind=st.sampled_from(sorted(WRITTEN)), place=st.integers(0, 5000), byte=st.binary(min_size=1, max_size=9))
def test_files_with_a_few_other_bytes(tmp_path_factory, kind, place, byte):
    content = WRITTEN[kind]
    place %= len(content)
    only_refuses(tmp_path_factory.mktemp("any"), content[:place] + byte + content[place + len(byte) :])


@pytest.mark.parametrize("n", [40, 47])
def test_pairs_and_folds_are_those_of_ten_folds_without_shuffling(tmp_path, n):
    same = (np.arange(n) % 3 == 0).tolist()
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([b"x"] * 2 * n, same), 4))
    pairs = VerificationBin(tmp_path / "x.bin").pairs()
    for fold, (_, test) in enumerate(KFold(10).split(np.zeros(n))):
        assert np.flatnonzero(pairs.fold == fold).tolist() == test.tolist()
    assert pairs.left.tolist() == list(range(0, 2 * n, 2)) and (pairs.right == pairs.left + 1).all()
    assert pairs.same.tolist() == same


def test_a_row_is_the_sum_with_its_mirror_image_and_none_may_be_missing(tmp_path):
    (tmp_path / "x.bin").write_bytes(WRITTEN["python 2"])
    rows = np.arange(64, dtype=np.float16).reshape(16, 4)
    both = VerificationBin(tmp_path / "x.bin", flip=True).combine(rows)
    assert both.dtype == np.float32 and both[1].tolist() == [8 + 12, 9 + 13, 10 + 14, 11 + 15] and both.shape == (8, 4)
    assert VerificationBin(tmp_path / "x.bin").combine(rows[:8]).tolist() == rows[:8].tolist()
    with pytest.raises(InputError, match="7 of 8 pictures"):
        VerificationBin(tmp_path / "x.bin").combine(rows[:7])
