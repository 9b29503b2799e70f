# SPDX-License-Identifier: MIT
"""Reading results.csv and the details/*.csv of a run folder, checked cell by cell."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from experiments.reporting.columns import TABLE, Column

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Schema:
    """What the columns of a CSV file hold; further columns are let through as text.

    Kinds: "text", "whole" (whole numbers from 0 on), "percent" (0 to 100), "positive" (from 0 on), "number".

    Args:
        required: from column to kind; none of its cells may be blank.
        others: likewise; a blank cell means "does not apply".
    """

    required: dict[str, str]
    others: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """Every column that the file must have, with its kind."""
        return self.required | self.others

    @property
    def whole(self) -> list[str]:
        """The columns of whole numbers."""
        return [name for name, kind in self.columns.items() if kind == "whole"]


def results_schema(columns: Iterable[Column]) -> Schema:
    """The schema of results.csv that has these columns."""
    kinds = {column.name: column.holds for column in columns}
    return Schema({name: kinds.pop(name) for name in ("dataset", "scenario", "n_identities", "seed")}, kinds)


RESULTS = results_schema(TABLE)

_RUN = {"dataset": "text", "n_identities": "whole", "seed": "whole"}
_SCENARIO = _RUN | {"n_subnets": "whole", "scenario": "text"}

DETAILS = {
    "columns": Schema(
        {"name": "text", "kind": "text", "digits": "whole", "higher_is_better": "text"},
        {"unit": "text", "title": "text"},
    ),
    "scenarios": Schema({"scenario": "text", "title": "text"}),
    "history": Schema(
        _RUN | {"scenario_partition": "text", "cluster": "whole", "epoch": "whole"},
        {"train_loss": "number", "val_accuracy": "percent"}
        | dict.fromkeys(("epoch_seconds", "samples_per_second", "seconds_since_start"), "positive"),
    ),
    "clusters": Schema(
        _RUN | {"partitioner": "text", "cluster": "whole", "size": "whole"},
        {"within_similarity": "number", "between_similarity": "number", "test_recall": "percent"},
    ),
    "identities": Schema({"identity": "text", "scenario": "text", "recall": "percent"}, {"test_samples": "whole"}),
    "routing": Schema(
        _RUN | {"n_subnets": "whole", "partitioner": "text", "router": "text"},
        {"cluster_accuracy_train": "percent", "cluster_accuracy_test": "percent"},
    ),
    "map": Schema(
        _RUN | dict.fromkeys(("n_subnets", "label", "cluster"), "whole")
        | {"partitioner": "text", "x": "number", "y": "number"}
    ),
    "errors": Schema(
        _SCENARIO | {"correct": "percent"},
        {"worst_cluster": "whole"} | dict.fromkeys(("wrong_cluster", "wrong_class", "worst_cluster_recall"), "percent"),
    ),
    "cmc": Schema(_SCENARIO | {"rank": "whole", "identification_rate": "percent"}),
    "open_set": Schema(
        _SCENARIO | {"score": "text", "fpir": "percent"},
        {"unresolved": "text", "mated": "whole", "non_mated": "whole", "threshold": "number"}
        | dict.fromkeys(("fpir_seen", "tpir", "tpir_low", "tpir_high", "fnir"), "percent")
        | dict.fromkeys(("wrong_cluster", "wrong_class", "under_threshold"), "percent"),
    ),
    "det": Schema(_SCENARIO | {"score": "text", "fpir": "percent", "fnir": "percent"}),
    "skipped": Schema(_RUN | {"scenario": "text", "reason": "text"}),
}  # fmt: skip

_MEANING = {
    "whole": "a whole number from 0 on",
    "percent": "a number from 0 to 100 (percent)",
    "positive": "a number from 0 on",
    "number": "a number",
}


def _value(text: str, kind: str) -> float:
    """The number in a cell; NaN for a blank one. Raises ValueError for what is not a number of that kind."""
    text = text.strip()
    if not text:
        return math.nan
    value = float(text)
    # Shares computed in floating point may pass 100 by a rounding error; more than that is another unit.
    low, high = -math.inf if kind == "number" else 0, 100 + 1e-6 if kind == "percent" else math.inf
    if not (math.isfinite(value) and low <= value <= high) or kind == "whole" and not value.is_integer():
        raise ValueError(text)
    return value


def read_csv(path: Path | str, schema: Schema) -> pd.DataFrame:
    """Reads a CSV file and checks every cell against its schema.

    Args:
        path: the file (UTF-8, commas, one header line).
        schema: the columns it must have and what they hold.

    Returns:
        One row a line; text columns as str, number columns as float (NaN where blank), unknown columns as str.

    Raises:
        InputError: no such file, not UTF-8 CSV, no rows, missing or repeated columns (named), a line of another
            length than the header, a blank cell in a required column, or a cell that is not a number of its kind
            (named with line and column).
    """
    path = Path(path)
    cure = "write the file again with python -m experiments.compare"
    if not path.is_file():
        raise InputError(f"no file {path}", "a CSV file there", "name a run folder that holds one")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} of {path.stat().st_size} bytes", f"at most {MAX_BYTES}", cure)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{path}, unreadable ({error})", "a CSV file in UTF-8", cure) from None
    header = lines[0][1] if lines else []
    missing = [column for column in schema.columns if column not in header]
    if missing:
        raise InputError(f"{path} without the column(s) {', '.join(missing)}", ",".join(schema.columns), cure)
    if len(set(header)) != len(header):
        raise InputError(f"{path} with a column named twice in its header", "every column once", cure)
    if len(lines) == 1:
        raise InputError(f"{path} with a header and no rows", "at least one row", cure)

    content: dict[str, list] = {column: [] for column in header}
    kinds = {column: schema.columns.get(column, "text") for column in header}
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise InputError(f"{path} line {number} with {len(line)} cells", f"{len(header)}, as the header has", cure)
        for column, text in zip(header, line, strict=True):
            if not text.strip() and column in schema.required:
                raise InputError(f"{path} line {number} with a blank {column}", f"a value for {column}", cure)
            if kinds[column] == "text":
                content[column].append(text)
                continue
            try:
                content[column].append(_value(text, kinds[column]))
            except ValueError:
                got = f"{path} line {number}, column {column}: {text.strip()[:40]!r}"
                raise InputError(got, _MEANING[kinds[column]], cure) from None
    return pd.DataFrame(content)
