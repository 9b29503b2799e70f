# SPDX-License-Identifier: MIT
"""A document as one self-contained HTML file, as Markdown, and both written into a run folder."""

import base64
import html
import re
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from datamodules.files import atomic_file, write_text
from experiments.reporting.document import Block, Cell, Code, Document, Links, Picture, Table


def _png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, which a PNG states at bytes 16 to 24."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "section"


def _source(name: str) -> Markup:
    """A style sheet or script of ours, the only text that goes into the page as it is."""
    loader = PackageLoader("experiments.reporting")
    return Markup(loader.get_source(Environment(autoescape=True), name)[0])


def to_html(document: Document) -> str:
    """The report as one HTML page that needs no other file and no network; all its texts are escaped."""
    environment = Environment(
        loader=PackageLoader("experiments.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    environment.filters["png_size"] = _png_size
    environment.filters["anchor"] = _anchor
    environment.filters["url"] = quote
    kind = attrgetter("kind")
    environment.filters["runs"] = lambda blocks: [(name, list(group)) for name, group in groupby(blocks, kind)]
    style, script = _source("report.css"), _source("report.js")
    return environment.get_template("report.html.j2").render(document=document, style=style, script=script)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no link, no table column, no line break of its own."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`|*]|\](?=\())", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    return f"**{_escape(cell.text)}**" if cell.tone == "best" else _escape(cell.text)


def _markdown_block(block: Block) -> str:
    if isinstance(block, Table):
        numeric = [
            bool(block.rows) and all(row[i].sort is not None for row in block.rows) for i in range(len(block.columns))
        ]
        lines = [
            f"**{_escape(block.caption)}**\n",
            "| " + " | ".join(map(_escape, block.columns)) + " |",
            "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
            *("| " + " | ".join(map(_markdown_cell, row)) + " |" for row in block.rows),
        ]
        return "\n".join([*lines, "", _escape(block.note)] if block.note else lines)
    if isinstance(block, Picture):
        return f"![{_escape(block.alt)}](figures/{block.name}.png)\n\n{_escape(block.caption)}"
    if isinstance(block, Code):
        longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"**{_escape(block.caption)}**\n\n{fence}\n{block.text.rstrip()}\n{fence}"
    assert isinstance(block, Links)
    return f"**{_escape(block.caption)}**\n\n" + "\n".join(f"- [{_escape(p)}]({quote(p)})" for p in block.paths)


def to_markdown(document: Document) -> str:
    """The report as Markdown, with the figures as links into `figures/`; all its texts are escaped."""
    parts = [f"# {_escape(document.title)}"]
    if document.facts:
        parts.append(" · ".join(map(_escape, document.facts)))
    parts.append(f"**Verdict.** {_escape(document.verdict)}")
    parts += map(_escape, document.remarks)
    if document.synthetic:
        what = "The data are" if document.synthetic == "all" else "Data sets marked synthetic are"
        parts.append(f"_{what} generated embeddings, not photographs of people._")
    for section in document.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += map(_escape, section.notes)
        parts += map(_markdown_block, section.blocks)
    return "\n\n".join(parts) + "\n"


def save(document: Document, folder: Path) -> None:
    """Writes figures/*.png, report.md and report.html, each whole or not at all; older ones are replaced.

    Args:
        document: the report, finished, so that nothing can fail half-way but the disk.
    """
    page, text = to_html(document), to_markdown(document)
    pictures = document.pictures()
    if pictures:
        (folder / "figures").mkdir(exist_ok=True)
    for picture in pictures:
        with atomic_file(folder / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page)
