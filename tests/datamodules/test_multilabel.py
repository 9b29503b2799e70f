# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat
from sklearn.preprocessing import MinMaxScaler

from datamodules.errors import InputError
from datamodules.multilabel import (
    FeatureScaling,
    MultiLabelSet,
    feature_affinity,
    label_affinity,
    open_multilabel,
    split_rows,
)


def made(features=None, labels=None):
    features = np.arange(8.0).reshape(4, 2) if features is None else np.asarray(features)
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]]) if labels is None else np.asarray(labels)
    names = (tuple("abcdefgh"[: features.shape[1]]), tuple("stuvwxyz"[: labels.shape[1]]))
    return MultiLabelSet("set", features, labels, *names)


# Data sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[[1, 0], [0, 1]], [[1, -1], [-1, 1]], [[True, False], [False, True]]])
def test_labels_are_0_and_1_or_minus_1_and_1(labels):
    found = made([[1], [2]], labels)
    assert found.labels.dtype == bool and found.features.dtype == np.float32
    np.testing.assert_array_equal(found.labels, [[True, False], [False, True]])


@pytest.mark.parametrize(
    "labels, words",
    [
        ([[1, 0], [2, 1]], "label 0, 's', has values other than 0 and 1"),
        ([[1, 0.5], [0, 1]], "label 1, 't', has values"),
        ([[1, -1], [0, 1]], "label 0, 's', has values other than -1 and 1"),
        ([[1, np.nan], [0, 1]], "label 1, 't', has values"),
        ([[1, 0], [0, 0]], "label 1, 't', stands in no row"),
        ([[0, 0, 1], [0, 0, 0]], r"stands in no row \(and 1 more\)"),
        ([[1, -1], [1, -1]], "label 1, 't', stands in no row"),
        ([[1, 0]], "as many rows"),
        (np.zeros((2, 0)), "as many rows"),
    ],
)
def test_labels_that_are_none_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        made([[1], [2]], labels)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="feature 1, 'b', is not finite"):
        made([[1, 2], [1, np.inf], [1, 2], [1, 3]])


def test_imbalance_of_labels():
    # label s in 4 rows, t in 2, u in 1: ratios 1, 2, 4; mean 7/3, sample deviation sqrt(7/3)
    found = made(np.ones((4, 1)), [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(found.imbalance_ratios(), [1, 2, 4])
    assert found.cvir() == pytest.approx(np.sqrt(7 / 3) / (7 / 3))
    assert made(np.ones((4, 1)), [[1], [0], [0], [0]]).cvir() == 0


def test_the_fingerprint_tells_contents_apart():
    assert made().fingerprint == made().fingerprint
    assert len({made().fingerprint, made(np.ones((4, 2))).fingerprint, made(None, np.eye(4, 2)).fingerprint}) == 3


ARFF = "@relation r\n@attribute a numeric\n@attribute x {0,1}\n@attribute b numeric\n@attribute y {0,1}\n@data\n"


@pytest.fixture
def arff(tmp_path):
    def write(rows="1,1,2,0\n{0 3, 3 1}\n5,0,6,1\n", labels=("y", "x"), name="set"):
        (tmp_path / f"{name}.arff").write_text(ARFF + rows)
        content = "".join(f'<label name="{label}"></label>' for label in labels)
        (tmp_path / f"{name}.xml").write_text(f'<labels xmlns="http://mulan.sourceforge.net/labels">{content}</labels>')
        return tmp_path / f"{name}.arff"

    return write


def test_mulan_files_are_told_apart_by_the_xml(arff, tmp_path):
    found = open_multilabel(arff())
    assert (found.name, found.feature_names, found.label_names) == ("set", ("a", "b"), ("y", "x"))
    np.testing.assert_array_equal(found.features, [[1, 2], [3, 0], [5, 6]])
    np.testing.assert_array_equal(found.labels, [[0, 1], [1, 0], [1, 0]])
    other = arff(labels=["x"], name="other").with_suffix(".xml")
    assert open_multilabel(tmp_path / "set.arff", other).label_names == ("x",)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(labels=("y", "z", "w")), r"the label 'z' \(and 1 more\), which is no attribute of set.arff"),
        (dict(labels=("a", "y")), "label 0, 'a', has values other than"),
        (dict(rows="1,0,2,1\n3,0,4,0\n"), "label 1, 'x', stands in no row"),
        (dict(labels=("a", "b", "x", "y")), "names every attribute"),
    ],
)
def test_an_xml_file_that_does_not_belong_to_the_arff_file_is_refused(arff, arguments, words):
    with pytest.raises(InputError, match=words) as refused:
        open_multilabel(arff(**arguments))
    assert "\n" not in str(refused.value)


def test_a_missing_xml_file_and_other_files_are_refused(arff, tmp_path):
    path = arff()
    path.with_suffix(".xml").unlink()
    with pytest.raises(InputError, match="set.xml"):
        open_multilabel(path)
    with pytest.raises(InputError, match="NAME.mat"):
        open_multilabel(tmp_path / "set.csv")


def test_a_matlab_file_is_the_same_data_set(tmp_path):
    savemat(
        tmp_path / "set.mat", {"data": np.arange(8).reshape(4, 2), "target": np.array([[1, -1, 1, -1], [-1, 1, 1, -1]])}
    )
    found = open_multilabel(tmp_path / "set.mat")
    assert found.fingerprint == made().fingerprint and found.label_names == ("0", "1")


@pytest.mark.parametrize(
    "name, shape, labels, cardinality",
    [
        ("stackex_cs", (9270, 635), 274, 2.56),
        ("stackex_cooking", (10491, 577), 400, 2.22),
        ("delicious", (16105, 500), 983, 19.02),
    ],
)
def test_published_sets_have_their_published_sizes(shared_data, name, shape, labels, cardinality):
    found = open_multilabel(shared_data("multilabel") / f"{name}.mat")
    assert found.features.shape == shape and found.labels.shape == (shape[0], labels)
    assert found.labels.sum(axis=1).mean() == pytest.approx(cardinality, abs=0.006)


@pytest.mark.slow
def test_delicious_is_the_same_in_both_formats(shared_data):
    folder = shared_data("multilabel")
    one, other = (open_multilabel(folder / f"delicious.{suffix}") for suffix in ("arff", "mat"))
    rows = [np.packbits(np.c_[each.features > 0, each.labels], axis=1) for each in (one, other)]
    assert {row.tobytes() for row in rows[0]} == {row.tobytes() for row in rows[1]}


# Splits, affinity, scaling --------------------------------------------------------------------------------------------


@given(st.integers(3, 200), st.floats(0.01, 0.49), st.floats(0.01, 0.49), st.integers(0, 3))
def test_a_split_deals_every_row_once(n, validation, test, seed):
    split = split_rows(n, validation, test, seed)
    assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(n))
    assert len(split.test) == max(1, int(test * n)) and len(split.validation) == max(1, int(validation * n))
    again = split_rows(n, validation, test, seed)
    assert np.array_equal(split.test, again.test) and np.array_equal(split.train, again.train)


def test_seeds_split_differently():
    assert not np.array_equal(split_rows(100, seed=0).test, split_rows(100, seed=1).test)


@pytest.mark.parametrize(
    "arguments", [(10, 0, 0.2), (10, 0.2, 0), (10, 0.5, 0.5), (10, -0.1, 0.2), (10, float("nan"), 0.2), (2,)]
)
def test_impossible_splits_are_refused(arguments):
    with pytest.raises(InputError):
        split_rows(*arguments)


def test_label_affinity_counts_rows_that_two_labels_share():
    labels = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], bool)
    np.testing.assert_array_equal(label_affinity(labels), [[0, 2, 1], [2, 0, 1], [1, 1, 0]])


def test_feature_affinity_by_hand():
    np.testing.assert_allclose(feature_affinity(np.array([[0, 1], [1, 0.5]])), [[1, 0.5], [0.5, 1.25]])


def test_scaling_is_min_max_of_the_training_rows():
    random = np.random.default_rng(0)
    train, other = random.normal(size=(20, 3)).astype("f4"), random.normal(size=(5, 3)).astype("f4")
    scaling, theirs = FeatureScaling.fit(train), MinMaxScaler().fit(train)
    assert not scaling.log_counts
    for rows in (train, other):
        np.testing.assert_allclose(scaling.unit(rows), theirs.transform(rows), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(scaling.inputs(rows), scaling.unit(rows))


def test_counts_are_logarithms_and_a_constant_feature_is_0():
    counts = np.array([[0, 5], [7, 5]], np.float32)
    scaling = FeatureScaling.fit(counts)
    assert scaling.log_counts
    np.testing.assert_allclose(scaling.inputs(counts), np.log([[1, 6], [8, 6]]), rtol=1e-6)
    np.testing.assert_allclose(scaling.unit(np.array([[1, 9]])), [[np.log(2) / np.log(8), 0]], rtol=1e-6)


@pytest.mark.parametrize(
    "features, counts", [([[0, 1], [1, 1]], False), ([[0.5], [2]], False), ([[-1], [2]], False), ([[0], [2]], True)]
)
def test_counts_are_recognised(features, counts):
    assert FeatureScaling.fit(np.array(features, np.float32)).log_counts == counts


def test_negative_features_are_no_counts():
    with pytest.raises(InputError, match="log_counts"):
        FeatureScaling.fit(np.array([[-1.0]]), log_counts=True)
