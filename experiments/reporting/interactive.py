# SPDX-License-Identifier: MIT
"""A figure as inline SVG for the page: points tell their values, and entries of the legend can be clicked away."""

import html
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MOST_POINTS = 1500  # of a figure; more are drawn, but do not tell their values
_LEGEND_MARK = 42.0  # width of a mark in a legend with its gap, in points

_texts: WeakKeyDictionary[Artist, list[str]] = WeakKeyDictionary()


def tell(line: Artist, texts: Sequence[str]) -> None:
    """Gives each data point of a line its own text; other lines tell the numbers of their axes."""
    _texts[line] = list(texts)


def to_svg(figure: Figure) -> str:
    """The SVG element of a figure; the same figure gives the same text.

    Groups have the attribute `data-series`, and a legend's marks and names `data-entry`, with the name of the legend's
    entry. On top lie a circle with a title for each data point, and a rectangle with `data-legend` for each entry.
    """
    figure.set_dpi(72)  # as SVG has it, so that a text's extent is in points
    entries = _entries(figure)
    ids: dict[str, tuple[str, str]] = {}

    def mark(artist: Artist, kind: str, name: str) -> None:
        if name:
            artist.set_gid(f"marked{len(ids)}")
            ids[f"marked{len(ids)}"] = kind, name

    for axis in figure.axes:
        for container in axis.containers:
            if isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
                name = _name(container.lines[0], entries)
                for part in (*container.lines[1], *container.lines[2]):
                    mark(part, "series", name)
        for artist in (*axis.lines, *axis.collections):
            if artist.get_gid() is None:
                mark(artist, "series", _name(artist, entries))
    for name, parts in entries.items():
        for part in parts:
            mark(part, "entry", name)

    stream = StringIO()
    with rc_context({"svg.hashsalt": "clusterface", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|\sxmlns(:xlink)?=\"[^\"]*\"", "", text, flags=re.S)
    text = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)

    def named(found: re.Match) -> str:
        kind, name = ids.get(found[1], ("", ""))
        return f'<g data-{kind}="{html.escape(name)}">' if kind else "<g>"

    text = re.sub(r'<g id="([^"]*)">', named, text)
    return text.replace("</svg>", f"{_points(figure, entries)}{_keys(figure, entries)}</svg>")


def _entries(figure: Figure) -> dict[str, tuple[Any, Any]]:
    """The mark and the text of each entry of a figure's legend, by its name."""
    legends = figure.legends[:1]
    return {
        text.get_text(): (handle, text)
        for legend in legends for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
    }  # fmt: skip


def _name(artist: Artist, entries: dict[str, tuple[Any, Any]]) -> str:
    """The entry that looks like an artist: by colour and marker, or by colour alone if no other entry has it."""
    colour = _colour(artist)
    alike = {name: handle for name, (handle, _) in entries.items() if _colour(handle) == colour}
    if isinstance(artist, Line2D) and len(alike) > 1:
        lines = {name: handle for name, handle in alike.items() if isinstance(handle, Line2D)}
        alike = {name: handle for name, handle in lines.items() if handle.get_marker() == artist.get_marker()}
    return next(iter(alike)) if len(alike) == 1 else ""


def _colour(artist: Artist) -> str:
    if isinstance(artist, Line2D):
        return to_hex(artist.get_color())
    colours = artist.get_facecolor() if isinstance(artist, Collection) else []
    return to_hex(colours[0][:3]) if len(colours) else ""


def _points(figure: Figure, entries: dict[str, tuple[Any, Any]]) -> str:
    found = []
    for axis in figure.axes:
        if not len(axis.get_xticks()):
            continue  # a map, whose coordinates mean nothing
        bars: dict[Artist, Any] = {
            container.lines[0]: container.lines[2][0].get_segments()
            for container in axis.containers
            if isinstance(container, ErrorbarContainer) and container.lines[0] is not None and container.lines[2]
        }
        for artist in (*axis.lines, *axis.collections):
            if isinstance(artist, Line2D) and artist.get_transform() == axis.transData:
                places = np.asarray(artist.get_xydata())
            elif isinstance(artist, PathCollection):
                places = np.asarray(artist.get_offsets())
            else:
                continue
            if not artist.get_visible() or (isinstance(artist, Line2D) and artist.get_marker() in ("_", "|", 2, 3)):
                continue  # the caps of bars
            name, own = _name(artist, entries), _texts.get(artist)
            at = figure.transFigure.inverted().transform(axis.transData.transform(places))
            for i, (place, (x, y)) in enumerate(zip(places, at, strict=True)):
                if np.isfinite([x, y]).all():
                    said = own[i] if own else _said(axis, name, place, bars.get(artist, [])[i : i + 1])
                    found.append((x, y, name, said))
    width, height = figure.get_size_inches() * 72
    return (
        ""
        if len(found) > MOST_POINTS
        else "".join(
            f'<circle cx="{x * width:.1f}" cy="{(1 - y) * height:.1f}" r="6" fill-opacity="0" '
            f'data-series="{html.escape(name)}"><title>{html.escape(said)}</title></circle>\n'
            for x, y, name, said in found
        )
    )


def _said(axis: Axes, name: str, place: Any, bar: Sequence[Any]) -> str:
    """A point's name and numbers: both coordinates, or the horizontal one if the other axis has names."""
    x, y = (float(value) for value in place)
    names = {tick: label.get_text() for tick, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)}
    title = axis.get_xlabel() or axis.figure.axes[-1].get_xlabel()
    row = next((text for tick, text in names.items() if abs(tick - y) < 0.5), "")
    by_name = bool(row) and not row.replace("−", "").replace(",", "").replace(".", "").isdigit()
    along = 0 if by_name else 1
    ends = sorted(end[along] for end in bar[0]) if len(bar) and len(bar[0]) else []
    interval = f" [{ends[0]:.4g}, {ends[-1]:.4g}]" if len(ends) > 1 and ends[0] < ends[-1] else ""
    if by_name:
        return ", ".join(filter(None, [name, row])) + f": {title} {x:.4g}{interval}"
    parts = [f"{axis.get_ylabel() or 'value'} {y:.4g}{interval}", f"{title or 'at'} {x:.4g}"]
    return f"{name}: {', '.join(parts)}" if name else ", ".join(parts)


def _keys(figure: Figure, entries: dict[str, tuple[Any, Any]]) -> str:
    width, height = figure.get_size_inches() * 72
    keys = []
    for name, (_, text) in entries.items():
        box = text.get_window_extent().transformed(figure.transFigure.inverted())
        left, top = box.x0 * width - _LEGEND_MARK, (1 - box.y1) * height
        size = f'width="{box.width * width + _LEGEND_MARK:.1f}" height="{box.height * height:.1f}"'
        keys.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill-opacity="0" data-legend="{html.escape(name)}" '
            f'tabindex="0" role="button" aria-pressed="true" aria-label="{html.escape(name)}"></rect>\n'
        )
    return "".join(keys)
