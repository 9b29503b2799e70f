# SPDX-License-Identifier: MIT
"""The paper on which all figures are drawn: one size, one type, one way to PNG."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.reporting.methods import OTHERS, Look
from experiments.reporting.wording import whole

# Narrow and with large type, so that a figure is still read when a telephone shrinks it to 350 pixels.
WIDTH_INCHES = 5.8
DPI = 200
GREY = "#5b6470"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "axes.edgecolor": "#b8bec6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#22272e",
    "ytick.labelcolor": "#22272e",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.9,
    "lines.markersize": 6.5,
    # Names of data sets are text, whatever dollar signs they hold.
    "text.parse_math": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Within it, or in a function that it decorates, every figure has the report's type, colours and grid."""
    with rc_context(_STYLE):
        yield


def panels(
    heights: list[float], entries: Sequence[tuple[str, Look]] = (), lines: bool = True, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure, and its panels from top to bottom.

    Args:
        heights: of the panels, in inches.
        entries: of a legend in two columns below all panels, from left to right, row by row: name and look.
        lines: whether the marks of the legend are joined by lines.
    """
    foot = 0.15 + 0.23 * ((len(entries) + 1) // 2) if entries else 0.0  # inches
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + foot), layout="constrained")
    if len(heights) > 1:
        figure.set_layout_engine("constrained", h_pad=0.09)  # a title must not seem to belong to the axis above it
    grid = figure.subplots(len(heights), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": heights})
    if entries:
        plain = {} if lines else {"linestyle": ""}
        # Two names of 32 characters fit beside each other.
        handles = [Line2D([], [], **look.line | plain, label=short(name, 32)) for name, look in entries]
        # matplotlib fills column by column; the reader reads row by row.
        handles = handles[0::2] + handles[1::2]
        columns = min(2, len(handles))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)
    return figure, list(grid[:, 0])


def legend_entries(look: Mapping[str, Look]) -> list[tuple[str, Look]]:
    """What a legend names: each method, but all that look like `OTHERS` together."""
    named = [(name, one) for name, one in look.items() if one != OTHERS]
    return named if len(named) == len(look) else [*named, (f"{len(look) - len(named)} others, see the table", OTHERS)]


def identities_axis(axis: Axes, values: list[float]) -> None:
    """Labels the horizontal axis with the values of N that were run; logarithmic when they span a factor of 4."""
    if max(values) / max(1.0, min(values)) >= 4:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(MaxNLocator(nbins=1))
        axis.minorticks_off()
    axis.set_xticks(values)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: whole(value)))
    axis.set_xlabel("enrolled identities N")


def short(text: str, limit: int = 44) -> str:
    """A name on one line, cut to fit a label.

    Args:
        limit: characters at most.

    >>> short("a very long name", 8)
    'a very …'
    """
    text = " ".join(str(text).split()) or " "
    # matplotlib leaves out legend entries that begin with an underscore.
    text = " " + text if text.startswith("_") else text
    return text if len(text) <= limit else text[: limit - 1] + "…"


def to_png(figure: Figure) -> bytes:
    """The bytes of a figure as PNG."""
    with style(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables show it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        stream = BytesIO()
        figure.savefig(stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
