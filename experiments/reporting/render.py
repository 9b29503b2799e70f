# SPDX-License-Identifier: MIT
"""A document as one self-contained HTML file and as Markdown, both written into a run folder."""

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
from experiments.reporting.document import Document, pictures


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no link, no table column, no line break of its own."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`|*]|\](?=\())", r"\\\1", text)


_FILTERS = {
    "inline": Markup,  # SVG of ours, whose texts are escaped
    "base64": lambda png: base64.b64encode(png).decode("ascii"),
    # Width and height in pixels, which a PNG states at bytes 16 to 24.
    "png_size": lambda png: (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")),
    "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "section",
    "url": quote,
    "runs": lambda blocks: [(kind, list(group)) for kind, group in groupby(blocks, attrgetter("kind"))],
    "md": _markdown,
    # Backticks around a block of code: more than the text has in a row.
    "fence": lambda text: "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0)),
}


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("experiments.reporting"), autoescape=escape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= _FILTERS
    return environment


def save(document: Document, folder: Path) -> None:
    """Writes figures/*.png, report.md and report.html, each whole or not at all; older ones are replaced.

    The page needs no other file and no network. All texts are escaped but its style sheet and script.
    """
    pages, texts = _environment(escape=True), _environment(escape=False)
    style, script = (Markup(pages.loader.get_source(pages, f"report.{name}")[0]) for name in ("css", "js"))
    # Both are finished before the first file is written, so that only the disk can fail half-way.
    page = pages.get_template("report.html.j2").render(document=document, style=style, script=script)
    text = texts.get_template("report.md.j2").render(document=document)
    for picture in pictures(document.sections):
        (folder / "figures").mkdir(exist_ok=True)
        with atomic_file(folder / "figures" / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page)
