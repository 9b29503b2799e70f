# SPDX-License-Identifier: MIT
"""Reading results.csv and the details/*.csv of a run folder, checked cell by cell."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Schema:
    """What the columns of a CSV file hold; further columns are let through as text.

    Args:
        text: names, taken as they are.
        whole: whole numbers from 0 on.
        percent: numbers from 0 to 100.
        positive: numbers from 0 on (seconds, megabytes, counts).
        number: any finite number.
        required: columns in which no cell may be blank; elsewhere blank means "does not apply".
        writer: who writes such a file, named in the cure.
    """

    text: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    percent: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    number: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    writer: str = "python -m experiments.compare"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the file must have."""
        return self.text + self.whole + self.percent + self.positive + self.number

    def kind(self, column: str) -> str:
        """What a column holds: "text", "whole", "percent", "positive" or "number".

        Args:
            column: its name; one that the schema does not know is text.
        """
        for kind in ("whole", "percent", "positive", "number"):
            if column in getattr(self, kind):
                return kind
        return "text"


RESULTS = Schema(
    text=("dataset", "extractor", "scenario", "partitioner", "loss", "init", "router", "decision"),
    whole=("n_identities", "n_subnets", "seed", "parameters"),
    percent=("accuracy", "precision", "recall", "f1", "cluster_accuracy_train", "cluster_accuracy_test"),
    positive=(
        "epochs",
        "epoch_seconds_serial",
        "epoch_seconds_parallel",
        "train_seconds",
        "peak_memory_mb",
        "query_microseconds",
    ),
    required=("dataset", "scenario", "n_identities", "seed"),
)

DETAILS = {
    "history": Schema(
        text=("dataset", "scenario_partition"),
        whole=("n_identities", "seed", "cluster", "epoch"),
        percent=("val_accuracy",),
        positive=("epoch_seconds", "samples_per_second", "seconds_since_start"),
        number=("train_loss",),
        required=("dataset", "n_identities", "scenario_partition", "seed", "cluster", "epoch"),
    ),
    "clusters": Schema(
        text=("dataset", "partitioner"),
        whole=("n_identities", "seed", "cluster", "size"),
        percent=("test_recall",),
        number=("within_similarity", "between_similarity"),
        required=("dataset", "n_identities", "partitioner", "seed", "cluster", "size"),
    ),
    "identities": Schema(
        text=("identity", "scenario"),
        whole=("test_samples",),
        percent=("recall",),
        required=("identity", "scenario", "recall"),
    ),
    "routing": Schema(
        text=("dataset", "partitioner", "router"),
        whole=("n_identities", "n_subnets", "seed"),
        percent=("cluster_accuracy_train", "cluster_accuracy_test"),
        required=("dataset", "n_identities", "n_subnets", "partitioner", "router", "seed"),
    ),
    "errors": Schema(
        text=("dataset", "scenario"),
        whole=("n_identities", "n_subnets", "seed", "worst_cluster"),
        percent=("correct", "wrong_cluster", "wrong_class", "worst_cluster_recall"),
        required=("dataset", "n_identities", "n_subnets", "scenario", "seed", "correct"),
    ),
    "cmc": Schema(
        text=("dataset", "scenario"),
        whole=("n_identities", "n_subnets", "seed", "rank"),
        percent=("identification_rate",),
        required=("dataset", "n_identities", "n_subnets", "scenario", "seed", "rank", "identification_rate"),
    ),
    "open_set": Schema(
        text=("dataset", "scenario", "score", "unresolved"),
        whole=("n_identities", "n_subnets", "seed", "mated", "non_mated"),
        percent=(
            "fpir", "fpir_seen", "tpir", "tpir_low", "tpir_high", "fnir", "wrong_cluster", "wrong_class",
            "under_threshold",
        ),
        number=("threshold",),
        required=("dataset", "n_identities", "n_subnets", "scenario", "seed", "score", "fpir"),
    ),
    "det": Schema(
        text=("dataset", "scenario", "score"),
        whole=("n_identities", "n_subnets", "seed"),
        percent=("fpir", "fnir"),
        required=("dataset", "n_identities", "n_subnets", "scenario", "seed", "score", "fpir", "fnir"),
    ),
    "skipped": Schema(
        text=("dataset", "scenario", "reason"),
        whole=("n_identities", "seed"),
        required=("dataset", "n_identities", "scenario", "seed", "reason"),
    ),
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
    in_range = math.isfinite(value) and (kind == "number" or value >= 0)
    # Shares computed in floating point may pass 100 by a rounding error; more than that is another unit.
    if kind == "percent":
        in_range = in_range and value <= 100 + 1e-6
    if kind == "whole":
        in_range = in_range and value == int(value)
    if not in_range:
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
    cure = f"write the file again with {schema.writer}"
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
    kinds = {column: schema.kind(column) for column in header}
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
