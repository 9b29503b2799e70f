# SPDX-License-Identifier: MIT
"""Reads results.csv and details/*.csv of a run folder and checks every cell."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from experiments.reporting.columns import SAMPLES, TABLE, Column

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Schema:
    """The columns of a CSV file, from name to kind of value; a file may have further columns, which are text.

    Kinds: "text", "whole" (whole numbers from 0 on), "percent" (0 to 100), "positive" (from 0 on), "number".
    """

    required: dict[str, str]  # no cell may be blank
    others: dict[str, str] = field(default_factory=dict)  # a blank cell means "does not apply"
    optional: dict[str, str] = field(default_factory=dict)  # the file may lack these columns

    @property
    def columns(self) -> dict[str, str]:
        return self.required | self.others | self.optional

    @property
    def whole(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "whole"]


def results_schema(columns: Iterable[Column]) -> Schema:
    """The schema of a results.csv with these columns."""
    kinds = {column.name: column.holds for column in columns}
    required = {name: kinds.pop(name) for name in ("dataset", "scenario", "n_identities", "seed")}
    return Schema(required, kinds, {column.name: kinds.pop(column.name) for column in SAMPLES})


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
        {"fpir_on_others": "percent"},
    ),
    "det": Schema(_SCENARIO | {"score": "text", "fpir": "percent", "fnir": "percent"}),
    "skipped": Schema(_RUN | {"scenario": "text", "reason": "text"}),
}  # fmt: skip

# Lower and upper bound, and the name of each kind of number. Shares computed in floating point may pass 100 by a
# rounding error; more than that is another unit.
_KINDS = {
    "whole": (0, np.inf, "a whole number from 0 on"),
    "percent": (0, 100 + 1e-6, "a number from 0 to 100 (percent)"),
    "positive": (0, np.inf, "a number from 0 on"),
    "number": (-np.inf, np.inf, "a number"),
}


def read_csv(path: Path | str, schema: Schema) -> pd.DataFrame:
    """Reads a CSV file (UTF-8, commas, one header line) and checks every cell against its schema.

    Returns:
        One row a line; text columns as str, number columns as float (NaN if blank or absent), unknown columns as str.

    Raises:
        InputError: no such file, not UTF-8 CSV, no rows, missing or repeated columns, a line of another length than the
            header, a blank cell in a required column, or a cell of another kind (with line and column).
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
    missing = [name for name in schema.columns if name not in header and name not in schema.optional]
    if missing:
        raise InputError(f"{path} without the column(s) {', '.join(missing)}", ",".join(schema.columns), cure)
    if len(set(header)) != len(header):
        raise InputError(f"{path} with a column named twice in its header", "every column once", cure)
    if len(lines) == 1:
        raise InputError(f"{path} with a header and no rows", "at least one row", cure)
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise InputError(f"{path} line {number} with {len(line)} cells", f"{len(header)}, as the header has", cure)

    table = pd.DataFrame([line for _, line in lines[1:]], columns=header, dtype=object)
    for name, kind in schema.columns.items():
        text = table[name].str.strip() if name in header else pd.Series("", table.index)
        blank = (text == "").to_numpy()
        if name in schema.required and blank.any():
            number = lines[1 + int(blank.argmax())][0]
            raise InputError(f"{path} line {number} with a blank {name}", f"a value for {name}", cure)
        if kind == "text":
            continue
        values = pd.to_numeric(text, errors="coerce").to_numpy(float)
        low, high, meaning = _KINDS[kind]
        wrong = ~(blank | (np.isfinite(values) & (values >= low) & (values <= high)))
        if kind == "whole":
            wrong |= ~blank & (values != np.floor(values))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"{path} line {lines[1 + row][0]}, column {name}: {text[row][:40]!r}", meaning, cure)
        table[name] = values
    return table
