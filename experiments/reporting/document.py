# SPDX-License-Identifier: MIT
"""The content of a report: sections of tables, pictures, texts and links."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Number
from typing import Any

import pandas as pd

from experiments.reporting.number_formats import NOTHING, any_number, whole

Format = Callable[[float], str]
PLACE = ("Data", "N", "m", "Run")  # headings
TONES = {1: "up", -1: "down", 0: "flat", None: ""}  # from the sign of an interval


@dataclass(frozen=True)
class TableCell:
    """One cell of a table."""

    text: str
    sort: float | None = None  # the number to sort by; None sorts by the text
    tone: str = ""  # or best, up, down, flat; the text says the same, so no reader depends on colour
    colour: str = ""  # "#rrggbb" of the method in the figures


@dataclass(frozen=True)
class Table:
    """A table with a note below it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str = ""
    starts: frozenset[int] = frozenset()  # numbers of the rows at which a new group of rows begins
    folded: bool = False  # closed until the reader opens it (HTML)
    kind: str = field(default="table", init=False)

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers only."""
        return bool(self.rows) and all(row[column].sort is not None for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """A figure; `name` is its file name without extension, and `alt` its text for readers who cannot see it."""

    name: str
    caption: str
    alt: str
    png: bytes = field(repr=False)
    svg: str = field(default="", repr=False)  # shown in the page in its place, if there is one
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Code:
    """A text shown as it is, folded."""

    caption: str
    text: str
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Links:
    """Links to files; `paths` are relative to the run folder, with forward slashes."""

    caption: str
    paths: tuple[str, ...]
    kind: str = field(default="links", init=False)


Block = Table | Picture | Code | Links


@dataclass(frozen=True)
class Section:
    """A titled part of the report."""

    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One number at the top of the report; `detail` is its interval, spread or condition."""

    label: str
    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report; `synthetic` says whether "all", "some" or no ("") data sets were generated."""

    title: str
    verdict: str
    sections: tuple[Section, ...]
    facts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    synthetic: str = ""


def pictures(sections: Iterable[Section]) -> list[Picture]:
    """All figures of some sections, in order."""
    return [block for section in sections for block in section.blocks if isinstance(block, Picture)]


def number_cell(text: str, value: float, tone: str = "") -> TableCell:
    """A cell that sorts by its number, NaN last."""
    return TableCell(text, -math.inf if math.isnan(value) else float(value), tone)


def _cells(frame: pd.DataFrame, formats: Mapping[str, Format]) -> list[list[TableCell]]:
    """The cells of each column: numbers in the format of their column, everything else as text."""

    def cell(value: Any, write: Format) -> TableCell:
        if value is None or value is pd.NA or value is pd.NaT:
            value = math.nan
        if isinstance(value, Number) and not isinstance(value, bool):
            return number_cell(write(value), value)  # type: ignore[arg-type]
        return value if isinstance(value, TableCell) else TableCell(str(value))

    names = [str(name) for name in frame.columns]
    return [[cell(value, formats.get(name, whole)) for value in frame.iloc[:, i]] for i, name in enumerate(names)]


def frame_table(caption: str, frame: pd.DataFrame) -> Table:
    """A table of any DataFrame, without its index; numbers by the name of their column (`any_number`)."""
    names = [str(name) for name in frame.columns]
    columns = _cells(frame, {name: partial(any_number, name) for name in names})
    return Table(caption, tuple(name.replace("_", " ") for name in names), tuple(zip(*columns, strict=True)))


def place_table(
    caption: str, frame: pd.DataFrame, formats: Mapping[str, Format], note: str = "", groups: Sequence[object] = ()
) -> Table:
    """A table whose headings are the columns of a frame; those of `PLACE` with one text move into the caption.

    Args:
        formats: from heading to the format of its numbers; counts need none.
        groups: the group of each row; empty for a table without groups.
    """
    columns = list(zip(map(str, frame.columns), _cells(frame, formats), strict=True))
    constant = [(name, cells) for name, cells in columns if name in PLACE and len({cell.text for cell in cells}) == 1]
    said = [(name, cells[0].text) for name, cells in constant if cells[0].text != NOTHING]
    shown = ", ".join(text if name == "Data" else f"{name} = {text}" for name, text in said)
    names, kept = zip(*(column for column in columns if column not in constant), strict=True)
    starts = frozenset(i for i in range(1, len(groups)) if groups[i] != groups[i - 1])
    return Table(f"{caption}: {shown}" if said else caption, names, tuple(zip(*kept, strict=True)), note, starts)
