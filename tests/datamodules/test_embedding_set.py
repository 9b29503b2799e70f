# SPDX-License-Identifier: MIT
import json

import numpy as np
import pytest

from datamodules import embedding_set as module
from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError


@pytest.fixture
def folder(tmp_path, people):
    """A written set of 4 identities that a test may damage."""
    embeddings, labels, names = people(n_identities=4, samples=(2, 3))
    EmbeddingSet.write(tmp_path / "set", embeddings, labels, names, [f"{i}.jpg" for i in range(len(labels))])
    return tmp_path / "set"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("chunk_rows", [1, 3, 65_536])
def test_what_is_written_is_opened_sorted_by_label_and_memory_mapped(tmp_path, people, monkeypatch, dtype, chunk_rows):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    embeddings, labels, names = people(n_identities=5, dtype=dtype)
    files = [f"{name}.jpg" for name in range(len(labels))]
    order = np.random.default_rng(1).permutation(len(labels))
    written = EmbeddingSet.write(
        tmp_path / "set", embeddings[order], labels[order], names, [files[i] for i in order], source="made up"
    )
    opened = EmbeddingSet.open(tmp_path / "set")
    for one in (written, opened):
        assert isinstance(one.embeddings, np.memmap) and one.embeddings.dtype == dtype
        assert np.array_equal(one.labels, labels) and one.labels.dtype == np.int32
        assert one.identities == names and one.meta["source"] == "made up"
        assert one.meta["count"] == len(labels) and one.meta["identities"] == 5 and one.meta["dim"] == 8
        row_of_file = [files.index(file) for file in one.files]
        assert np.array_equal(one.embeddings, embeddings[row_of_file])
        # Stable: within an identity the rows stay in the order they came in.
        places = [int(np.flatnonzero(order == row)[0]) for row in row_of_file]
        assert all(a < b for a, b, same in zip(places, places[1:], np.diff(labels) == 0, strict=False) if same)
    assert opened.sample_counts().tolist() == [int((labels == k).sum()) for k in range(5)]
    assert (len(opened), opened.dim, opened.n_identities) == (len(labels), 8, 5)


def test_the_fingerprint_changes_with_the_data_and_only_with_the_data(tmp_path, people):
    embeddings, labels, names = people(n_identities=4)
    before = EmbeddingSet(embeddings, labels, names).fingerprint()
    assert EmbeddingSet.write(tmp_path / "set", embeddings, labels, names, note="other").fingerprint() == before
    changed = embeddings.copy()
    changed[3, 2] += 1
    moved = labels.copy()
    moved[np.flatnonzero(np.diff(labels))[0] + 1] = 0
    others = [
        EmbeddingSet(changed, labels, names),
        EmbeddingSet(embeddings, moved, names),
        EmbeddingSet(embeddings, labels, ("another", *names[1:])),
        EmbeddingSet(embeddings.astype(np.float16), labels, names),
        EmbeddingSet(embeddings[:-1], labels[:-1], names),
    ]
    assert len({before, *(other.fingerprint() for other in others)}) == 6


@pytest.mark.parametrize("missing", ["embeddings.npy", "labels.npy", "identities.txt", "meta.json"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        EmbeddingSet.open(folder)


def test_a_set_without_file_names_opens(folder):
    (folder / "files.txt").unlink()
    assert EmbeddingSet.open(folder).files == ()


def replaced(folder, name, change):
    """Replaces an array of the set by what `change` makes of it, and lets meta.json agree."""
    array = change(np.load(folder / name))
    np.save(folder / name, array)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("labels.npy", lambda a: a[:-1], "labels for"),
        ("embeddings.npy", lambda a: a[:-1], "labels for"),
        ("labels.npy", lambda a: a[::-1].copy(), "sorted by label"),
        ("labels.npy", lambda a: a - 1, "labels from 0 to 3"),
        ("labels.npy", lambda a: a + 1, "labels from 0 to 3"),
        ("labels.npy", lambda a: np.where(a == 2, 3, a).astype(np.int32), "labels with gaps, 1 of 4"),
        ("labels.npy", lambda a: a.astype(np.float32), "int32"),
        ("labels.npy", lambda a: a.astype(np.int64) + 2**40, "int32"),
        ("labels.npy", lambda a: np.where(a == 0, 2**31 - 1, -(2**31)).astype(np.int32), "sorted|labels from"),
        ("labels.npy", lambda a: a[:0], "labels for"),
        ("embeddings.npy", lambda a: a.astype(np.complex64), "float16 or float32"),
        ("embeddings.npy", lambda a: a.astype(np.float64) * 1e300, "not finite"),
        ("embeddings.npy", np.ones_like, "all .* embeddings are equal"),
        ("embeddings.npy", lambda a: a[:, 0].copy(), "2-d"),
        ("embeddings.npy", lambda a: a[:, :0].copy(), "at least one"),
        ("embeddings.npy", lambda a: a[:, :-1].copy(), "meta.json states dim = 8"),
    ],
)
def test_arrays_that_do_not_match_are_refused(folder, name, change, words):
    replaced(folder, name, change)
    with pytest.raises(InputError, match=words) as caught:
        EmbeddingSet.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8"])
@pytest.mark.parametrize("labels", ["u1", "<i8", ">i4"])
def test_arrays_of_another_precision_or_byte_order_are_converted(folder, dtype, labels):
    before = EmbeddingSet.open(folder).fingerprint()
    replaced(folder, "embeddings.npy", lambda a: a.astype(dtype))
    replaced(folder, "labels.npy", lambda a: a.astype(labels))
    opened = EmbeddingSet.open(folder)
    assert opened.embeddings.dtype == np.float32 and opened.labels.dtype == np.int32
    assert opened.fingerprint() == before


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("identities.txt", "a\nb\nb\nd\n", "2 identities called 'b'"),
        ("identities.txt", "a\nb\nunknown\nd\n", "an identity called 'unknown'"),
        ("identities.txt", "a\nb\nc\n", "labels 0 to 3 with 3 identities"),
        ("identities.txt", "a\nb\nc\nd\ne\n", "labels with gaps, 1 of 5"),
        ("identities.txt", b"\xff\n", "UTF-8"),
        ("files.txt", "a.jpg\n", "1 file names"),
        ("meta.json", "{", "meta.json, unreadable"),
        ("meta.json", json.dumps({"count": 3}), "meta.json states count = 3"),
        ("meta.json", json.dumps({"identities": 3}), "meta.json states identities = 3"),
    ],
)
def test_texts_that_do_not_match_are_refused(folder, name, content, words):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        EmbeddingSet.open(folder)


@pytest.mark.parametrize("chunk_rows", [2, 65_536])
@pytest.mark.parametrize("value, words", [(np.nan, "not finite"), (np.inf, "not finite"), (0, "all zero")])
def test_bad_rows_are_counted_and_the_first_is_named(folder, monkeypatch, chunk_rows, value, words):
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    opened = EmbeddingSet.open(folder)
    n, bad = len(opened), [3, 4, len(opened) - 1]

    def spoil(array):
        array[bad] = value
        return array

    replaced(folder, "embeddings.npy", spoil)
    identity = opened.identities[opened.labels[3]]
    with pytest.raises(
        InputError, match=f"3 of {n} embeddings are {words} .first: row 3, identity '{identity}', 3.jpg"
    ):
        EmbeddingSet.open(folder)
    assert len(EmbeddingSet.open(folder, check_values=False)) == n


@pytest.mark.parametrize("dtype", ["float64", ">f4", "int8", "uint64"])
def test_other_numbers_are_written_as_float32(tmp_path, dtype):
    written = EmbeddingSet.write(tmp_path / "set", np.array([[3, 1], [1, 2]], dtype), [1, 0], ["a", "b"])
    assert written.embeddings.tolist() == [[1, 2], [3, 1]] and written.embeddings.dtype.name == "float32"
    assert written.meta["dtype"] == "float32"


def test_one_identity_may_have_equal_embeddings_but_not_all_of_several(tmp_path):
    assert len(EmbeddingSet.write(tmp_path / "one", np.ones((3, 2)), [0, 0, 0], ["a"])) == 3
    assert len(EmbeddingSet.write(tmp_path / "some", np.eye(2)[[0, 0, 1]], [0, 1, 1], ["a", "b"])) == 3
    with pytest.raises(InputError, match="all 3 embeddings are equal"):
        EmbeddingSet.write(tmp_path / "all", np.ones((3, 2)), [0, 1, 1], ["a", "b"])


def test_a_zero_among_other_numbers_is_no_zero_row(tmp_path):
    assert len(EmbeddingSet.write(tmp_path / "set", np.array([[0, 1e-3]], np.float32), [0], ["a"])) == 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(labels=[0, 0, 1]), "labels of shape"),
        (dict(labels=[0.0, 0.0, 1.0, 1.0]), "float64"),
        (dict(labels=[0, 0, 2, 2]), "labels 0 to 2|gaps"),
        (dict(labels=[0, 0, 0, 0]), "gaps"),
        (dict(labels=[-1, 0, 0, 1]), "labels"),
        (dict(labels=[0, 0, 2**32, 2**32 + 1]), "labels"),
        (dict(identities=["a", "b", "c"]), "gaps"),
        (dict(identities=["a\nb", "c"]), "line"),
        (dict(identities=["a\r", "c"]), "line"),
        (dict(files=["1", "2", "3"]), "file names"),
        (dict(files=["1", "2", "3", "4\n5"]), "line"),
        (dict(identities=["a", "a"]), "2 identities called 'a'"),
        (dict(identities=["unknown", "a"]), "called 'unknown'"),
        (dict(dtype="float64"), "dtype in meta"),
        (dict(count=7, dim=3), "count and dim in meta"),
        (dict(embeddings=np.ones((4, 2), complex)), "complex128"),
        (dict(embeddings=np.full((4, 2), 1e300)), "4 of 4 .* not finite"),
        (dict(embeddings=np.ones(4, np.float32)), "shape"),
        (dict(embeddings=np.ones((4, 0), np.float32)), "at least one"),
        (dict(embeddings=np.array([[1, 1], [1, np.nan], [1, 1], [np.inf, 1]], np.float32)), "2 of 4 .* row 1"),
        (dict(embeddings=np.array([[1, 1], [1, 1], [0, 0], [1, 1]], np.float16)), "1 of 4 .* row 2"),
    ],
    ids=str,
)
def test_what_cannot_be_a_set_is_refused_and_leaves_nothing(tmp_path, change, words):
    arguments = (
        dict(embeddings=np.eye(4, 2, dtype=np.float32) + 1, labels=[0, 0, 1, 1], identities=["a", "b"], files=[])
        | change
    )
    with pytest.raises(InputError, match=words):
        EmbeddingSet.write(tmp_path / "set", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_set_is_not_written_over_another(folder, people):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match="exists"):
        EmbeddingSet.write(folder, *people(n_identities=2))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        EmbeddingSet.open(tmp_path / "none")


def test_the_lfw_set_has_the_published_counts(shared_data):
    # Huang et al., LFW: 13,233 images of 5,749 people, 1,680 with two or more.
    opened = EmbeddingSet.open(shared_data("lfw_edgeface"))
    counts = opened.sample_counts()
    assert (len(opened), opened.n_identities, (counts >= 2).sum()) == (13_233, 5_749, 1_680)


def test_somebody_may_be_called_unknown_if_another_word_is_chosen(tmp_path):
    rows, names = np.eye(2, dtype=np.float32), ["unknown", "anna"]
    with pytest.raises(InputError, match="unknown=") as caught:
        EmbeddingSet.write(tmp_path / "set", rows, [0, 1], names)
    assert "called 'unknown'" in str(caught.value) and not (tmp_path / "set").exists()
    EmbeddingSet.write(tmp_path / "set", rows, [0, 1], names, unknown="nobody")
    assert EmbeddingSet.open(tmp_path / "set").identities == ("unknown", "anna")
    with pytest.raises(InputError, match="called 'anna'"):
        EmbeddingSet.write(tmp_path / "other", rows, [0, 1], names, unknown="anna")
