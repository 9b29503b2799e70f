# SPDX-License-Identifier: MIT
"""The one table of columns: results.csv, the tables, the report and the dashboards read names, units, titles from it.

A run may add metrics (`metrics=[...]`). Their columns stand in details/columns.csv, and in `DataFrame.attrs` of the
rows of results.csv, under `ADDED`.
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

    Attributes:
        name: in the file.
        kind: "label" (what was run), "metric" (how well it did), "routing" (cluster accuracy) or "cost".
        unit: "percent", "seconds", ..., "" for none.
        title: heading in tables, without the unit; the name where empty.
        digits: after the decimal point; None: three significant ones, and for a label that it is text.
        higher_is_better: which end is printed bold.
    """

    name: str
    kind: str
    unit: str = ""
    title: str = ""
    digits: int | None = None
    higher_is_better: bool = True

    @property
    def holds(self) -> str:
        """What a cell may hold, as `reading.Schema` names it."""
        if self.unit == "percent":
            return "percent"
        if self.kind == "metric":
            return "number"
        if self.digits == 0:
            return "whole"
        return "text" if self.kind == "label" else "positive"

    @property
    def heading(self) -> str:
        """Title and unit."""
        title = self.title or self.name.replace("_", " ")
        return f"{title} ({SYMBOLS.get(self.unit, self.unit)})" if self.unit else title

    def key(self, part: str = "") -> str:
        """The name with the unit behind it, unless it has it already, as dashboards show it.

        Args:
            part: stands between them, such as `_sd`; a spread of percent is in points.

        >>> Column("f1", "metric", "percent").key("_sd"), Column("train_seconds", "cost", "seconds").key()
        ('f1_sd_points', 'train_seconds')
        """
        unit = "points" if part and self.unit == "percent" else self.unit
        return f"{self.name}{part}" if not unit or unit in self.name.split("_") else f"{self.name}{part}_{unit}"


TABLE = (
    Column("dataset", "label"),
    Column("extractor", "label"),
    Column("n_identities", "label", digits=0),
    Column("n_subnets", "label", digits=0),
    *(Column(name, "label") for name in ("scenario", "partitioner", "loss", "init", "router", "decision")),
    Column("seed", "label", digits=0),
    Column("accuracy", "metric", "percent", "Accuracy", 2),
    Column("precision", "metric", "percent", "Precision", 2),
    Column("recall", "metric", "percent", "Recall", 2),
    Column("f1", "metric", "percent", "F1", 2),
    Column("cluster_accuracy_train", "routing", "percent", "train", 2),
    Column("cluster_accuracy_test", "routing", "percent", "test", 2),
    Column("epochs", "cost", title="Epochs", digits=0),
    Column("epoch_seconds_serial", "cost", "seconds", "Serial"),
    Column("epoch_seconds_parallel", "cost", "seconds", "Parallel"),
    Column("train_seconds", "cost", "seconds", "Training"),
    Column("peak_memory_mb", "cost", "mb", "Peak memory"),
    Column("query_microseconds", "cost", "microseconds", "Query"),
    Column("parameters", "cost", title="Parameters", digits=0),
)
KNOWN = {column.name: column for column in TABLE}
LABELS, METRICS, ROUTING, COSTS = (
    tuple(column for column in TABLE if column.kind == kind) for kind in ("label", "metric", "routing", "cost")
)
MEASURED = tuple(column for column in COSTS if column.unit)  # what differs when the same thing is done twice

# Results of the other commands: metrics in percent, by name.
_PERCENT = re.compile(
    "(micro|macro|pair)_f1|precision_at_[135]|knn_accuracy|eer|hamming_loss|(val_at_far|far_measured)_.*"
)


def column(name: str) -> Column:
    """The column of a name; for results of other commands and for details it is made of the name.

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
    """Columns of the metrics that the run of a table was asked for."""
    return tuple(frame.attrs.get(ADDED, ()))


def metrics(frame: pd.DataFrame) -> tuple[Column, ...]:
    """All metrics of a table."""
    return METRICS + added(frame)


def scores(frame: pd.DataFrame) -> tuple[Column, ...]:
    """What tables of scores show: the paper's precision, recall and F1, and the metrics that were asked for."""
    return tuple(column for column in metrics(frame) if column.name != "accuracy")


def from_rows(rows: list[dict[str, Any]]) -> tuple[Column, ...]:
    """Columns from rows of details/columns.csv, each name once.

    Args:
        rows: of fields of `Column`; further keys are left out.
    """
    found = {}
    for row in rows:
        facts = {field.name: row[field.name] for field in fields(Column)}
        facts |= {"digits": int(row["digits"]), "higher_is_better": str(row["higher_is_better"]) == "True"}
        found[row["name"]] = Column(**facts)
    return tuple(found.values())
