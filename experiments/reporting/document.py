# SPDX-License-Identifier: MIT
"""A report before it is written: sections of tables, pictures, texts and links, in plain data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Number

import pandas as pd

from experiments.reporting import wording

PLACE = ("Data", "N", "m", "Run")  # headings of where a row was measured


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        sort: what it is sorted by: a number, or the text where None.
        tone: "" or one of best, up, down, flat; the text says the same, so no reader depends on colour.
        colour: "#rrggbb" of the method's lines in the figures, "" for none.
    """

    text: str
    sort: float | None = None
    tone: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        rows: as many cells each as there are columns.
        note: what the numbers mean, below the table.
        starts: numbers of the rows at which a new group of rows begins.
        folded: whether it is closed until the reader opens it (HTML).
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    starts: frozenset[int] = frozenset()
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        name: file name without extension, of a-z, 0-9, _ and -.
        caption: what it shows and what the marks mean.
        alt: what a reader who cannot see it should know.
        png: the file's bytes.
    """

    name: str
    caption: str
    alt: str
    png: bytes = field(repr=False)
    kind: str = field(default="picture", init=False)


@dataclass(frozen=True)
class Code:
    """A text shown as it is, folded."""

    caption: str
    text: str
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Links:
    """Links to files of the run folder.

    Args:
        paths: relative to the run folder, with forward slashes.
    """

    caption: str
    paths: tuple[str, ...]
    kind: str = field(default="links", init=False)


Block = Table | Picture | Code | Links


@dataclass(frozen=True)
class Section:
    """A titled part of the report.

    Args:
        blocks: what it holds, in order.
    """

    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One number to see first.

    Args:
        detail: its interval, spread or condition.
        tone: as of a `Cell`.
    """

    label: str
    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Document:
    """A whole report.

    Args:
        tiles: the numbers to see first.
        synthetic: "all" or "some" where so many data sets were generated, "" where none; shown as a badge.
    """

    title: str
    verdict: str
    sections: tuple[Section, ...]
    facts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    synthetic: str = ""

    def pictures(self) -> list[Picture]:
        """All figures, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]


def number_cell(text: str, value: float, tone: str = "") -> Cell:
    """A cell that sorts by its number; NaN, for a missing one, sorts last."""
    return Cell(text, -math.inf if math.isnan(value) else float(value), tone)


def written(value: float, write: Callable[[float], str] = wording.whole) -> Cell:
    """The cell of a number, as a function of `wording` writes it."""
    return number_cell(write(value), value)


def frame_table(caption: str, frame: pd.DataFrame) -> Table:
    """A table of any DataFrame: numbers by `wording.any_number`, everything else as text.

    Args:
        frame: its columns become headings, with underscores as spaces; the index is left out.
    """
    names = [str(column) for column in frame.columns]

    def cell(column: str, value: object) -> Cell:
        if value is None or value is pd.NA or value is pd.NaT:
            return number_cell(wording.NOTHING, math.nan)
        if isinstance(value, Number) and not isinstance(value, bool):
            return number_cell(wording.any_number(column, value), float(value))  # type: ignore[arg-type]
        return Cell(str(value))

    rows = tuple(tuple(map(cell, names, row)) for row in frame.itertuples(index=False, name=None))
    return Table(caption, tuple(name.replace("_", " ") for name in names), rows)


def place_table(
    caption: str, columns: Sequence[str], rows: list[list[Cell]], note: str = "", groups: Sequence[object] = ()
) -> Table:
    """A table in which a column of `PLACE` that says the same in every row moves into the caption.

    Args:
        rows: at least one.
        groups: for each row the group that it belongs to; none for a table without groups.
    """
    constant = [i for i, name in enumerate(columns) if name in PLACE and len({row[i].text for row in rows}) == 1]
    said = [(columns[i], rows[0][i].text) for i in constant if rows[0][i].text != wording.NOTHING]
    shown = ", ".join(text if name == "Data" else f"{name} = {text}" for name, text in said)
    keep = [i for i in range(len(columns)) if i not in constant]
    return Table(
        f"{caption}: {shown}" if said else caption,
        tuple(columns[i] for i in keep),
        tuple(tuple(row[i] for i in keep) for row in rows),
        note,
        frozenset(i for i in range(1, len(groups)) if groups[i] != groups[i - 1]),
    )
