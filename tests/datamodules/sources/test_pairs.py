# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from datamodules.embedding_set import EmbeddingSet
from datamodules.errors import InputError
from datamodules.sources.pairs import VerificationPairs

FILES = (
    "Ann/Ann_0001.jpg",
    "Ann/Ann_0002.jpg",
    "Bob Lee/Bob Lee_0001.jpg",
    "Bob Lee/Bob Lee_0010.jpg",
    "Cy/Cy_0001.jpg",
)
GOOD = "2\t1\nAnn\t1\t2\nAnn\t1\tCy\t1\nBob Lee\t10\t1\nBob Lee\t1\tCy\t1\n"


def set_of(files=FILES):
    labels = np.arange(len(files), dtype=np.int32)
    return EmbeddingSet(np.eye(max(len(files), 1), dtype=np.float32), labels, tuple(map(str, labels)), files)


def read(tmp_path, text, files=FILES):
    (tmp_path / "pairs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return VerificationPairs.read(tmp_path / "pairs.txt", set_of(files))


def test_pairs_are_rows_of_the_set_fold_by_fold(tmp_path):
    pairs = read(tmp_path, GOOD)
    assert pairs.left.tolist() == [0, 0, 3, 2]
    assert pairs.right.tolist() == [1, 4, 2, 4]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1] and pairs.n_folds == 2 and len(pairs) == 4


def test_folds_hold_all_their_same_pairs_before_their_different_ones(tmp_path):
    pairs = read(tmp_path, "1 2\nAnn 1 2\nAnn 2 1\nAnn 1 Cy 1\nAnn 2 Cy 1\n")
    assert pairs.same.tolist() == [True, True, False, False]


def test_other_ways_to_name_files_and_to_end_lines(tmp_path):
    pairs = read(
        tmp_path,
        "2\r\nAnn\t1\t2\r\nAnn\t2\t1\r\nAnn\t1\tCy\t1\r\nCy\t1\tAnn\t2\r\n\r\n",
        ("Ann_1.png", "Ann_02.png", "Cy/1.png"),
    )
    assert pairs.n_folds == 1
    assert pairs.left.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("ten\t300\n", "line 1"),
        ("0\t300\n", "line 1"),
        ("99999999999999999999\t300\n", "line 1"),
        (GOOD + "Ann\t1\t2\n", "with 5 pairs; expected 4"),
        (GOOD.replace("Ann\t1\t2", "Ann\t1\tCy\t1"), "line 2.*'name i j'"),
        (GOOD.replace("Ann\t1\tCy\t1", "Ann\t1\tCy"), "line 3.*'name i other j'"),
        (GOOD.replace("Ann\t1\t2", "Ann\tone\t2"), "line 2"),
        (GOOD.replace("Ann\t1\t2", "Ann\t-1\t2"), "line 2"),
        (b"2\t1\nAnn\t1\t\xff\n", "not UTF-8"),
        (
            GOOD.replace("Cy", "Dee"),
            "2 of 4 pairs name images that the set does not hold .first: line 3, image 1 of Dee",
        ),
        (GOOD.replace("Ann\t1\t2", "Ann\t1\t3"), "1 of 4 pairs.*line 2, image 3 of Ann"),
    ],
)
def test_a_file_that_cannot_be_used_costs_one_clear_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_absent_file_and_set_without_names(tmp_path):
    with pytest.raises(InputError, match="no file"):
        VerificationPairs.read(tmp_path / "none.txt", set_of())
    with pytest.raises(InputError, match="without files.txt"):
        read(tmp_path, GOOD, files=())


def test_two_files_for_one_image_are_refused_only_where_they_are_needed(tmp_path):
    with pytest.raises(InputError, match="several images 1 of Cy"):
        read(tmp_path, GOOD, (*FILES, "Cy/other_1.jpg"))
    assert len(read(tmp_path, GOOD, (*FILES, "Dee/a_1.jpg", "Dee/b_1.jpg"))) == 4


def test_drawn_pairs_keep_their_promises():
    labels = np.repeat(np.arange(30), [1, 2, 3, 4, 5] * 6)
    pairs = VerificationPairs.draw(labels, n_folds=4, per_kind=9, seed=1)
    assert len(pairs) == 4 * 2 * 9 and pairs.n_folds == 4
    np.testing.assert_array_equal(labels[pairs.left] == labels[pairs.right], pairs.same)
    assert (pairs.left != pairs.right).all()
    ends = np.sort(np.stack([pairs.left, pairs.right], axis=1), axis=1)
    assert len(np.unique(ends, axis=0)) == len(pairs)
    people = [set(labels[ends[pairs.fold == fold]].ravel()) for fold in range(4)]
    assert sum(map(len, people)) == len(set.union(*people))
    for fold in range(4):
        assert pairs.same[pairs.fold == fold].sum() == 9
    again = VerificationPairs.draw(labels, n_folds=4, per_kind=9, seed=1)
    np.testing.assert_array_equal(pairs.left, again.left)


def test_drawn_pairs_are_as_many_as_the_poorest_fold_allows():
    labels = np.repeat(np.arange(8), 2)
    pairs = VerificationPairs.draw(labels, n_folds=2, per_kind=50)
    assert pairs.same.sum() == 8 and (~pairs.same).sum() == 8
    with pytest.raises(InputError, match="8 identities.*for 5 folds"):
        VerificationPairs.draw(labels, n_folds=5)
