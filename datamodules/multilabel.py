# SPDX-License-Identifier: MIT
"""Multi-label data sets, their splits and scaling, and which labels and features go together.

Axes: N rows, F features, L labels.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.errors import InputError
from datamodules.sources.arff import read_arff, read_label_names
from datamodules.sources.mat import read_mat


@dataclass(frozen=True)
class MultiLabelSet:
    """N rows of F features with any of L labels.

    Raises:
        InputError: other labels, a label that no row has, values that are not finite, or shapes that do not match.
    """

    name: str
    features: np.ndarray  # (N, F) float32, finite
    labels: np.ndarray  # (N, L) bool, also taken as 0 and 1, or -1 and 1; at least one row has each label
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]

    def __post_init__(self):
        features, labels = np.asarray(self.features, np.float32), np.asarray(self.labels)
        shapes = (len(features), len(self.feature_names)), (len(features), len(self.label_names))
        if (features.shape, labels.shape) != shapes or features.size == 0 or labels.size == 0:
            got = f"{self.name}: features {features.shape}, labels {labels.shape}, {len(self.feature_names)} and "
            got += f"{len(self.label_names)} names"
            raise InputError(got, "as many rows, and a name per column", "correct the data set")
        infinite = np.logical_not(np.isfinite(features).all(axis=0))
        self._refuse_columns(infinite, self.feature_names, "feature", "is not finite")
        if labels.dtype != bool:
            # {0, 1} or {-1, 1} in the whole matrix, never both.
            negative = -1 if (labels == -1).any() else 0
            strange = ((labels != 1) & (labels != negative)).any(axis=0)
            self._refuse_columns(strange, self.label_names, "label", f"has values other than {negative} and 1")
            labels = labels == 1
        self._refuse_columns(np.logical_not(labels.any(axis=0)), self.label_names, "label", "stands in no row")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "labels", labels)

    def _refuse_columns(self, wrong: np.ndarray, names: tuple[str, ...], what: str, why: str) -> None:
        if wrong.any():
            place = int(wrong.argmax())
            more = f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
            got = f"{self.name}: {what} {place}, {names[place]!r}, {why}{more}"
            cure = "correct or remove the column"
            raise InputError(got, "finite features, and labels 0 or 1, each in at least one row", cure)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.features.shape}{self.labels.shape}".encode())
        digest.update(np.ascontiguousarray(self.features).tobytes())
        digest.update(np.packbits(self.labels).tobytes())
        return digest.hexdigest()[:16]

    def imbalance_ratios(self) -> np.ndarray:
        """(L,) count of the most frequent label over that of each (IRLbl, Charte et al. 2015, eq. 5)."""
        counts = self.labels.sum(axis=0)
        return counts.max() / counts

    def cvir(self) -> float:
        """Coefficient of variation of the imbalance ratios: sample standard deviation / mean (Charte et al., eq. 7).

        Charte, Rivera, del Jesus & Herrera, "Addressing imbalance in multilabel classification: Measures and random
        resampling algorithms", Neurocomputing 163, 2015.
        """
        ratios = self.imbalance_ratios()
        return float(ratios.std(ddof=1) / ratios.mean()) if len(ratios) > 1 else 0.0


def open_multilabel(path: Path | str, xml: Path | str | None = None) -> MultiLabelSet:
    """Opens a data set, named like its file.

    Args:
        path: `.arff` (Mulan, dense or sparse) or `.mat` (matrices data and target).
        xml: Mulan's list of labels, for an ARFF file; None takes the file beside it.

    Raises:
        InputError: another kind of file, a malformed one, or labels that the ARFF file does not have.
    """
    path = Path(path)
    if path.suffix.lower() == ".mat":
        features, labels = read_mat(path)
        names = tuple(tuple(map(str, range(matrix.shape[1]))) for matrix in (features, labels))
        return MultiLabelSet(path.stem, features, labels, *names)
    if path.suffix.lower() != ".arff":
        raise InputError(f"data.path = {path}", "a file NAME.arff with its NAME.xml, or NAME.mat", "check data.path")
    table, xml = read_arff(path), Path(xml) if xml is not None else path.with_suffix(".xml")
    label_names = read_label_names(xml)
    place = {name: column for column, name in enumerate(table.names)}
    absent = [name for name in label_names if name not in place]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        got = f"{xml} with the label {absent[0]!r}{more}, which is no attribute of {path.name}"
        raise InputError(got, "labels that are attributes of the ARFF file", "take the XML file that belongs to it")
    columns = np.array([place[name] for name in label_names])
    rest = np.setdiff1d(np.arange(len(table.names)), columns)
    if len(rest) == 0:
        got = f"{xml}, which names every attribute of {path.name} a label"
        raise InputError(got, "features beside them", "correct it")
    feature_names = tuple(table.names[column] for column in rest)
    return MultiLabelSet(path.stem, table.values[:, rest], table.values[:, columns], feature_names, label_names)


@dataclass(frozen=True)
class RowSplit:
    """Ascending rows of a data set by role; each row has one."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(n: int, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> RowSplit:
    """Draws the roles of n rows at random.

    Args:
        validation, test: shares of the rows, above 0, together below 1; rounded down, at least one row each.

    Raises:
        InputError: shares outside these bounds, or fewer than three rows.
    """
    if not (validation > 0 and test > 0 and validation + test < 1) or n < 3:
        got = f"split.validation = {validation:g}, split.test = {test:g} of {n} rows"
        cure = "set split.validation and split.test"
        raise InputError(got, "shares above 0, together below 1, of at least three rows", cure)
    order = np.random.default_rng(seed).permutation(n)
    n_test, n_validation = max(1, int(test * n)), max(1, int(validation * n))
    test_rows, validation_rows, train_rows = map(np.sort, np.split(order, [n_test, n_test + n_validation]))
    return RowSplit(train_rows, validation_rows, test_rows)


def label_affinity(labels_NL: np.ndarray) -> np.ndarray:
    """Z = Y^T Y without diagonal, the rows with both of two labels: (L, L) float32, exact below 2^24 rows."""
    counts_NL = labels_NL.astype(np.float32)
    affinity_LL = counts_NL.T @ counts_NL
    np.fill_diagonal(affinity_LL, 0)
    return affinity_LL


def feature_affinity(scaled_NF: np.ndarray) -> np.ndarray:
    """X'^T X' of features in [0, 1], as `FeatureScaling.unit` makes them: (F, F) float32."""
    scaled_NF = np.asarray(scaled_NF, np.float32)
    return scaled_NF.T @ scaled_NF


@dataclass(frozen=True)
class FeatureScaling:
    """Brings features to one scale: log(1 + x) for counts, and x' = (x - min) / (max - min) per feature."""

    # (F,) extremes over the training rows, after the logarithm; other rows may leave [0, 1].
    low: np.ndarray
    high: np.ndarray
    log_counts: bool

    @classmethod
    def fit(cls, features_NF: np.ndarray, log_counts: bool | None = None) -> "FeatureScaling":
        """Learns the extremes; refuses log_counts with negative features.

        Args:
            log_counts: whether the features are counts; None: if all are whole numbers from 0 and one exceeds 1.
        """
        negative = bool((features_NF < 0).any())
        if log_counts and negative:
            got = f"log_counts = true, features from {features_NF.min():g}"
            raise InputError(got, "counts", "set settings.log_counts=false")
        if log_counts is None:
            log_counts = not negative and features_NF.max() > 1 and bool((features_NF == np.floor(features_NF)).all())
        values_NF = np.log1p(features_NF) if log_counts else features_NF
        return cls(values_NF.min(axis=0), values_NF.max(axis=0), log_counts)

    def unit(self, features_NF: np.ndarray) -> np.ndarray:
        """x', (N, F) float32; 0 for features that are constant in training."""
        width_F = self.high - self.low
        scaled_NF = (self._values(features_NF) - self.low) / np.where(width_F > 0, width_F, 1)
        return np.where(width_F > 0, scaled_NF, 0).astype(np.float32)

    def inputs(self, features_NF: np.ndarray) -> np.ndarray:
        """Inputs of classifiers, (N, F) float32: x', but logarithms of counts keep their zeros and common scale."""
        return self._values(features_NF) if self.log_counts else self.unit(features_NF)

    def _values(self, features_NF: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(features_NF, 0)) if self.log_counts else features_NF
