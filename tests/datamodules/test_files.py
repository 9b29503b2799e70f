# SPDX-License-Identifier: MIT
import errno
import hashlib
import json
import os
import stat

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DiskError, InputError
from datamodules.files import (
    atomic_file,
    atomic_folder,
    disk_error,
    make_folder,
    open_npy,
    read_json,
    read_sealed,
    remove_leftovers,
    sha256,
    write_json,
    write_sealed,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_alone_with_the_usual_rights(tmp_path):
    umask = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "one\n")
    finally:
        os.umask(umask)
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "one\n"
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_the_content_is_synced_before_the_name_changes_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, os.replace

    def noting_sync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        sync(descriptor)

    def noting_replace(*paths):
        events.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", noting_replace)
    write_text(tmp_path / "a.txt", "one")
    assert events == ["content", "rename", "folder"]
    events.clear()
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("one")
    assert sorted(events[:-2]) == ["content", "folder", "folder"] and events[-2:] == ["rename", "folder"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "new") as folder:
        (folder / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    with atomic_folder(tmp_path / "deep" / "new") as folder:
        (folder / "a.txt").write_text("whole")
        assert not (tmp_path / "deep" / "new").exists()
    assert names(tmp_path / "deep") == ["new"] and names(tmp_path / "deep" / "new") == ["a.txt"]


def test_an_empty_folder_may_be_filled_a_full_one_or_a_file_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "a.txt").write_text("one")
    assert names(tmp_path / "empty") == ["a.txt"]
    (tmp_path / "file").write_text("")
    for taken in ("empty", "file"):
        with pytest.raises(InputError, match="exists"), atomic_folder(tmp_path / taken):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["empty", "file"]


def test_json_comes_back_as_it_went(tmp_path):
    content = {"": [None, True, -1, 2**70, 1e-300, {}], "ä\u2028\x00\n": "\r\n\t", "nested": {"a": [[[]]]}, "𝕏": 0.1}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_json_without_a_number_for_nan_refuses_it_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == ["a.json"] and read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    "content, word",
    [
        (b'{"a": ', "unreadable"),
        (b"", "unreadable"),
        (b"\xff\xfe{}", "unreadable"),
        (b"[1, 2]", "list"),
        (b'"text"', "str"),
        (b'{"a": ' + b"[" * 200_000, "unreadable"),
    ],
    ids=["cut", "empty", "not UTF-8", "a list", "a text", "nested too deeply"],
)
def test_what_is_no_json_object_is_refused_with_the_cure_given(tmp_path, content, word):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=word) as caught:
        read_json(tmp_path / "a.json", cure="do this")
    assert caught.value.cure == "do this" and "\n" not in str(caught.value)


def test_json_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_json(path)


@pytest.fixture
def npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(4, 3))
    return path


def test_an_npy_file_is_mapped_and_cannot_be_written(npy):
    array = open_npy(npy, ("float32",), 2)
    assert isinstance(array, np.memmap) and array.tolist() == np.arange(12).reshape(4, 3).tolist()
    with pytest.raises(ValueError):
        array[0, 0] = 1


def test_an_npy_file_without_elements_opens(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 3), np.float16))
    assert open_npy(tmp_path / "a.npy", ("float16",), 2).shape == (0, 3)


def test_an_npy_file_cut_anywhere_is_refused(npy, tmp_path):
    whole = npy.read_bytes()
    for length in [0, 1, 5, 6, 9, 40, 127, 128, len(whole) - 48, len(whole) - 1]:
        npy.write_bytes(whole[:length])
        with pytest.raises(InputError):
            open_npy(npy, ("float32",), 2)


@given(place=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.arange(12, dtype=np.float32).reshape(4, 3))
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    try:
        array = open_npy(path, ("float32",), 2)
    except InputError as refused:
        assert "\n" not in str(refused)
    else:
        assert array.dtype == np.float32 and array.ndim == 2 and array.size <= 48


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float32),
        np.zeros((3, 3), np.complex64),
        np.array([["a"]]),
        np.array([[{}]], dtype=object),
        np.zeros((2, 2), [("a", "f4")]),
    ],
    ids=["1-d", "complex", "of texts", "of objects", "of records"],
)
def test_another_kind_of_array_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError):
        open_npy(tmp_path / "a.npy", ("float32",), 2)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8", ">f8", "u1", "<i2", ">i4", "<i8", ">u8"])
def test_numbers_of_any_kind_and_byte_order_are_converted(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=dtype).reshape(2, 3))
    read = open_npy(tmp_path / "a.npy", ("float16", "float32"), 2)
    assert read.tolist() == [[0, 1, 2], [3, 4, 5]] and not read.flags.writeable
    assert read.dtype == ("float16" if dtype.endswith("f2") else "float32") and read.dtype.isnative
    if "f" in dtype:
        with pytest.raises(InputError):
            open_npy(tmp_path / "a.npy", ("int32",), 2)
    else:
        assert open_npy(tmp_path / "a.npy", ("int32",), 2).dtype == np.int32


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63 - 1])
def test_whole_numbers_that_do_not_fit_are_refused_not_wrapped(tmp_path, number):
    np.save(tmp_path / "a.npy", np.array([0, number]))
    with pytest.raises(InputError, match=str(number)):
        open_npy(tmp_path / "a.npy", ("int32",), 1)


def test_a_table_of_text_is_called_no_npy_file(tmp_path):
    (tmp_path / "a.csv").write_text("0.1,0.2\n0.3,0.4\n")
    with pytest.raises(InputError, match="no .npy file") as refused:
        open_npy(tmp_path / "a.csv", ("float32",), 2)
    assert "pickle" not in str(refused.value) and "numpy.loadtxt" in refused.value.cure


def test_a_pickle_in_an_npy_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.save(tmp_path / "a.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    for dtype in ("float32", "object"):
        with pytest.raises(InputError):
            open_npy(tmp_path / "a.npy", (dtype,), 2)
    assert not (tmp_path / "sprung").exists()


def test_other_files_are_refused(tmp_path, npy):
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 2), np.float32))
    (tmp_path / "zip.npy").write_bytes((tmp_path / "a.npz").read_bytes())
    (tmp_path / "json.npy").write_text(json.dumps([1, 2]))
    for name in ("zip.npy", "json.npy", "none.npy", "."):
        with pytest.raises(InputError):
            open_npy(tmp_path / name, ("float32",), 2)


def test_sha256_is_the_published_one(tmp_path):
    # FIPS 180-2, appendix B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "more").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "more") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_does_not_take_a_file_is_one_line_and_the_old_file_stays(tmp_path, number):
    write_text(tmp_path / "a.txt", "one")
    with pytest.raises(DiskError, match=os.strerror(number)) as caught, atomic_file(tmp_path / "a.txt"):
        raise OSError(number, "says the disk")
    assert str(tmp_path / "a.txt") in str(caught.value) and "repeat the command" in caught.value.cure
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "one"


def test_safetensors_own_error_about_the_disk_is_understood_and_others_are_not_taken_for_one(tmp_path):
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "no folder" / "a")
    assert disk_error(caught.value) is None
    full = safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "No space left" in str(disk_error(full))
    assert disk_error(FileNotFoundError(errno.ENOENT, "no")) is None and disk_error(ValueError("os error 28")) is None


def test_a_sealed_object_comes_back_and_every_changed_bit_is_noticed(tmp_path):
    content = {"a": [1, 2.5e-300, None, "ä"], "b": {"c": (1, 2)}}
    write_sealed(tmp_path / "a.json", content)
    assert read_sealed(tmp_path / "a.json") == {**content, "b": {"c": [1, 2]}}
    whole = (tmp_path / "a.json").read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a.json").write_bytes(changed)
        try:
            assert read_sealed(tmp_path / "a.json") == read_sealed_content(whole)
        except InputError:
            pass  # white space may change without harm
    for length in range(len(whole) - 1):
        (tmp_path / "a.json").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_sealed(tmp_path / "a.json")


def read_sealed_content(whole):
    return {key: value for key, value in json.loads(whole).items() if key != "digest"}


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "sub" / ".part.x1y2.tmp").mkdir(parents=True)
    for name in (
        ".a.json.x1y2.tmp",
        "a.json",
        "sub/.tmpAbC123",
        "sub/b.tmp",
        ".lock",
        ".hidden",
        "sub/.part.x1y2.tmp/c",
    ):
        (tmp_path / name).write_text("")
    assert len(remove_leftovers(tmp_path)) == 3
    assert names(tmp_path) == [".hidden", ".lock", "a.json", "sub"] and names(tmp_path / "sub") == ["b.tmp"]


def test_folders_are_made_with_those_above_them_and_may_be_there(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
