# SPDX-License-Identifier: MIT
"""The common style of all figures: size, type, colours, panels, legend, and the way to PNG."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from os.path import commonprefix
from pathlib import Path

import pandas as pd
from matplotlib import style as matplotlib_style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.reporting.interactive import to_svg
from experiments.reporting.methods import OTHERS, Look
from experiments.reporting.number_formats import whole

# Narrow and with large type, so that a figure can be read on a telephone, 350 pixels wide.
WIDTH_INCHES = 5.8
DPI = 200
GREY = "#5b6470"

_STYLE_FILE = Path(__file__).parent / "templates" / "report.mplstyle"


@contextmanager
def style() -> Iterator[None]:
    """Context manager and decorator that gives figures the report's type, colours and grid."""
    with matplotlib_style.context(_STYLE_FILE):
        yield


def panels(
    heights: list[float], entries: Sequence[tuple[str, Look]] = (), lines: bool = True, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure, and its panels from top to bottom.

    Args:
        heights: in inches.
        entries: names and looks of a legend in two columns below all panels, row by row.
        lines: whether the legend shows lines or only marks.
    """
    foot = 0.15 + 0.23 * ((len(entries) + 1) // 2) if entries else 0.0  # inches
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + foot), layout="constrained")
    if len(heights) > 1:
        figure.set_layout_engine("constrained", h_pad=0.09)  # a title must not seem to belong to the axis above it
    grid = figure.subplots(len(heights), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights})
    if entries:
        plain = {} if lines else {"linestyle": ""}
        # Two names of 32 characters fit beside each other.
        names = told_apart([name for name, _ in entries], 32)
        handles = [
            Line2D([], [], **look.line | plain, label=name) for name, (_, look) in zip(names, entries, strict=True)
        ]
        # matplotlib fills column by column; the reader reads row by row.
        handles = handles[0::2] + handles[1::2]
        columns = min(2, len(handles))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)
    return figure, list(grid[:, 0])


def legend_entries(look: Mapping[str, Look], title: Callable[[str], str] = str) -> list[tuple[str, Look]]:
    """Entries of a legend: each name with its title, but all that look like `OTHERS` in one entry."""
    named = [(title(name), one) for name, one in look.items() if one != OTHERS]
    return named if len(named) == len(look) else [*named, (f"{len(look) - len(named)} others, see the table", OTHERS)]


def place_title(rows: pd.DataFrame, limit: int = 44) -> str:
    """The title of a panel: data set and N of its rows, the name cut to `limit` characters."""
    return f"{short(rows['data'].iloc[0], limit)}, N = {whole(rows['n_identities'].iloc[0])}"


def short(text: str, limit: int = 44) -> str:
    """A name on one line, cut to at most `limit` characters."""
    text = " ".join(str(text).split()) or " "
    # matplotlib leaves out legend entries that begin with an underscore.
    text = " " + text if text.startswith("_") else text
    return text if len(text) <= limit else text[: limit - 1] + "…"


def told_apart(names: Sequence[str], limit: int) -> list[str]:
    """Names cut to at most `limit` characters each, so that what differs from the most similar other name is kept.

    >>> told_apart(["ISM", "No distribution [margin=0.3]", "No distribution [margin=0.5]"], 20)
    ['ISM', 'No dis… [margin=0.3]', 'No dis… [margin=0.5]']
    """
    names = [" ".join(str(name).split()) for name in names]
    shown = []
    for name in names:
        text = short(name, limit)
        alike = max((len(commonprefix([name, other])) for other in names if other != name), default=0)
        if len(name) > limit and alike >= limit - 1:
            head = limit // 3
            kept = limit - head - 1
            start = min(alike - 3, len(name) - kept)
            rest = name[start : start + kept]
            text = f"{name[:head]}…{rest if start + kept >= len(name) else rest[:-1] + '…'}"
        shown.append(text)
    return shown


def drawn(figure: Figure) -> tuple[bytes, str]:
    """A figure as PNG and as SVG, see `to_png` and `interactive.to_svg`."""
    png = to_png(figure)
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        return png, to_svg(figure)


def to_png(figure: Figure) -> bytes:
    """The bytes of a figure as PNG."""
    with style(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables show it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        stream = BytesIO()
        figure.savefig(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
