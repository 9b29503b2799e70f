# SPDX-License-Identifier: MIT
"""The columns of results.csv: all tables, reports and dashboards read names, units and titles here.

A run may add metrics (`metrics=[...]`). Their columns are in details/columns.csv, and in `DataFrame.attrs` of the rows
of results.csv, under `ADDED`.
"""

import re
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

ADDED = "columns"
SYMBOLS = {"percent": "%", "seconds": "s", "microseconds": "µs", "mb": "MB"}


@dataclass(frozen=True)
class Column:
    """A column.

    Its kind is "label" (what was run), "metric" (how well it did), "routing" (cluster accuracy), "cost", or "samples"
    (how many there were; absent from the files of older runs).
    """

    name: str
    kind: str
    unit: str = ""  # or "percent", "seconds", ...
    title: str = ""  # heading in tables, without the unit; the name if empty
    digits: int | None = None  # after the decimal point; None: three significant ones, and for a label that it is text
    higher_is_better: bool = True  # which end is printed bold

    @property
    def holds(self) -> str:
        """The kind of value in a cell, as in `reading.Schema`."""
        if self.unit == "percent":
            return "percent"
        if self.kind == "metric":
            return "number"
        if self.digits == 0:
            return "whole"
        return "text" if self.kind == "label" else "positive"

    @property
    def heading(self) -> str:
        title = self.title or self.name.replace("_", " ")
        return f"{title} ({SYMBOLS.get(self.unit, self.unit)})" if self.unit else title

    def key(self, part: str = "") -> str:
        """The name with its unit, as dashboards show it, and `part`, such as `_sd`, between the two.

        >>> Column("f1", "metric", "percent").key("_sd"), Column("train_seconds", "cost", "seconds").key()
        ('f1_sd_points', 'train_seconds')
        """
        unit = "points" if part and self.unit == "percent" else self.unit
        return f"{self.name}{part}" if not unit or unit in self.name.split("_") else f"{self.name}{part}_{unit}"


TABLE = (
    *(Column(name, "label") for name in ("dataset", "extractor")),
    *(Column(name, "label", digits=0) for name in ("n_identities", "n_subnets")),
    *(Column(name, "label") for name in ("scenario", "partitioner", "loss", "init", "router", "decision")),
    Column("seed", "label", digits=0),
    *(Column(name, "metric", "percent", name.capitalize(), 2) for name in ("accuracy", "precision", "recall", "f1")),
    *(Column(f"cluster_accuracy_{part}", "routing", "percent", part, 2) for part in ("train", "test")),
    Column("epochs", "cost", title="Epochs", digits=0),
    *(Column(f"epoch_seconds_{way}", "cost", "seconds", way.capitalize()) for way in ("serial", "parallel")),
    Column("train_seconds", "cost", "seconds", "Training"),
    Column("peak_memory_mb", "cost", "mb", "Peak memory"),
    Column("query_microseconds", "cost", "microseconds", "Query"),
    Column("parameters", "cost", title="Parameters", digits=0),
    *(Column(name, "samples", digits=0) for name in ("train_samples", "test_samples")),
)
KNOWN = {column.name: column for column in TABLE}
LABELS, METRICS, ROUTING, COSTS, SAMPLES = (
    tuple(one for one in TABLE if one.kind == kind) for kind in ("label", "metric", "routing", "cost", "samples")
)
MEASURED = tuple(column for column in COSTS if column.unit)  # differs if the same thing is done twice

# Metrics in percent among the results of the other commands.
_PERCENT = re.compile(
    "(micro|macro|pair)_f1|precision_at_[135]|knn_accuracy|eer|hamming_loss|(val_at_far|far_measured)_.*"
)


def column(name: str) -> Column:
    """The column with a name; for results of other commands it is guessed from the name.

    >>> column("validated_f1").unit, column("val_at_far_0.001_std").unit, column("auc").unit
    ('percent', 'percent', '')
    """
    plain = name.lower().removeprefix("validated_").removesuffix("_std")
    known = KNOWN.get(plain)
    if known and known.unit == "percent" or _PERCENT.fullmatch(plain):
        return Column(name, "metric", "percent", digits=4 if plain == "hamming_loss" else 2)
    unit = "seconds" if "seconds" in name.lower() else ""
    return KNOWN.get(name) or Column(name, "cost" if unit else "metric", unit)


def added(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Columns of the metrics that the user added to the run."""
    return tuple(frame.attrs.get(ADDED, ()))


def metrics(frame: pd.DataFrame) -> tuple[Column, ...]:
    """All metrics of a table."""
    return METRICS + added(frame)


def scores(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Columns of the tables of scores: the paper's precision, recall and F1, and the metrics that the user added."""
    return tuple(column for column in metrics(frame) if column.name != "accuracy")


def from_rows(rows: list[dict[str, Any]]) -> tuple[Column, ...]:
    """Columns from rows of details/columns.csv, each name once."""
    found = {}
    for row in rows:
        facts = {field.name: row[field.name] for field in fields(Column)}
        facts |= {"digits": int(row["digits"]), "higher_is_better": str(row["higher_is_better"]) == "True"}
        found[row["name"]] = Column(**facts)
    return tuple(found.values())
