# SPDX-License-Identifier: MIT
"""Multi-label data sets as MATLAB files: a matrix of features and one of labels. Axes: N rows, F features, L labels."""

from pathlib import Path

import numpy as np

from datamodules.errors import InputError, one_line

MAX_CELLS = 1 << 29  # of a matrix, dense
_NUMBERS = "double single logical sparse int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()
CURE = "save the two matrices with MATLAB's save -v7, or scipy.io.savemat"


def read_mat(path: Path | str, features: str = "data", labels: str = "target") -> tuple[np.ndarray, np.ndarray]:
    """Reads (N, F) features and (N, L) labels, both float32, and nothing else: cells and objects are never unpacked.

    Args:
        path: a .mat file, version 4 to 7.2 (7.3 is HDF5 and not read).
        features: name of the (N, F) matrix, dense or sparse.
        labels: name of the (L, N) matrix; or (N, L) unless L = N.

    Raises:
        InputError: no such file, damaged, a matrix that is missing, too large or not of numbers, or other shapes.
    """
    from scipy.io import loadmat, whosmat

    path = Path(path)
    expected = f"a .mat file with the matrices {features} (rows x features) and {labels} (labels x rows)"
    if not path.is_file():
        raise InputError(f"no file {path}", expected, "check data.path")
    try:
        kinds = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        for name in (features, labels):
            if name not in kinds:
                raise InputError(f"{path} with {', '.join(kinds) or 'nothing'}", expected, f"store {name} in it")
            _check(path, name, *kinds[name])
        content = loadmat(path, variable_names=[features, labels])
        features_NF, labels_LN = (_dense(content[name]) for name in (features, labels))
    except InputError:
        raise
    except NotImplementedError:
        raise InputError(f"{path} of version 7.3 (HDF5)", "version 4 to 7.2", CURE) from None
    except Exception as error:  # scipy names damage in many ways
        raise InputError(f"{path}, unreadable ({one_line(error)})", expected, CURE) from None
    if labels_LN.shape[1] == len(features_NF):
        return features_NF, np.ascontiguousarray(labels_LN.T)
    if len(labels_LN) == len(features_NF):
        return features_NF, labels_LN
    got = f"{path}: {labels} {labels_LN.shape} for {features} {features_NF.shape}"
    raise InputError(got, f"{labels} with {len(features_NF)} columns", f"store one column per row of {features}")


def _check(path: Path, name: str, shape: tuple[int, ...], kind: str) -> None:
    if kind not in _NUMBERS:
        raise InputError(f"{path}: {name} of MATLAB class {kind}", "a matrix of real numbers", CURE)
    if len(shape) != 2 or 0 in shape or shape[0] * shape[1] > MAX_CELLS:
        raise InputError(f"{path}: {name} of shape {tuple(shape)}", f"a matrix of 1 to {MAX_CELLS} cells", CURE)


def _dense(matrix: object) -> np.ndarray:
    dense = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    if dense.dtype.kind not in "biuf" or dense.ndim != 2:
        raise ValueError(f"a matrix of {dense.dtype}")
    return dense.astype(np.float32)
