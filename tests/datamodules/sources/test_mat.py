# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from datamodules.errors import InputError
from datamodules.sources import mat
from datamodules.sources.mat import read_mat

DATA = np.array([[1, 0, 3], [0, 2, 0], [4, 0, 0], [0, 0, 5]])
TARGET = np.array([[1, 0, 1, 0], [0, 1, 1, 0]])


@pytest.fixture
def saved(tmp_path):
    def save(**content):
        savemat(tmp_path / "set.mat", content, do_compression=True)
        return tmp_path / "set.mat"

    return save


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64", "float32"])
def test_labels_come_in_columns_or_rows(saved, dtype):
    for target in (TARGET, TARGET.T):
        features, labels = read_mat(saved(data=DATA.astype(dtype), target=target.astype(dtype)))
        assert features.dtype == labels.dtype == np.float32
        np.testing.assert_array_equal(features, DATA)
        np.testing.assert_array_equal(labels, TARGET.T)


def test_sparse_matrices_are_understood_and_other_variables_left_alone(saved):
    path = saved(
        data=csc_matrix(DATA.astype(float)), target=csc_matrix(TARGET.astype(float)), other=np.array([{}], object)
    )
    features, labels = read_mat(path)
    np.testing.assert_array_equal(features, DATA)
    np.testing.assert_array_equal(labels, TARGET.T)


@pytest.mark.parametrize(
    "content, words",
    [
        (dict(data=DATA), "store target in it"),
        (dict(target=TARGET), "store data in it"),
        (dict(data=np.array([[1, "a"]], object), target=TARGET), "class cell"),
        (dict(data=DATA, target={"a": 1}), "class struct"),
        (dict(data=DATA, target="text"), "class char"),
        (dict(data=DATA, target=np.zeros((0, 4))), "shape"),
        (dict(data=DATA, target=np.zeros((2, 4, 1, 2))), "shape"),
        (dict(data=DATA, target=TARGET[:, :3]), "4 columns"),
        (dict(data=DATA + 1j, target=TARGET), "complex"),
    ],
)
def test_what_is_no_pair_of_matrices_is_refused(saved, content, words):
    with pytest.raises(InputError, match=words):
        read_mat(saved(**content))


def test_a_square_target_is_read_as_stated(saved):
    target = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(read_mat(saved(data=DATA, target=target))[1], target.T)


def test_size_is_checked_before_anything_is_unpacked(saved, monkeypatch):
    path = saved(data=DATA, target=TARGET)
    monkeypatch.setattr(mat, "MAX_CELLS", 11)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(InputError, match=r"data of shape \(4, 3\)"):
        read_mat(path)


@pytest.mark.parametrize("keep", [0, 60, 127, 128, 150, 200])
def test_a_truncated_file_is_refused_in_one_line(saved, keep):
    path = saved(data=DATA, target=TARGET)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as refused:
        read_mat(path)
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_mat(tmp_path / "nowhere.mat")
    (tmp_path / "hdf.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64))
    with pytest.raises(InputError, match="7.3"):
        read_mat(tmp_path / "hdf.mat")
    (tmp_path / "text.mat").write_text("no matrices here at all, only text and more text" * 10)
    with pytest.raises(InputError):
        read_mat(tmp_path / "text.mat")
