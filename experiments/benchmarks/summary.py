# SPDX-License-Identifier: MIT
"""Records as a line, a table, a figure and a page of markdown."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from experiments.reporting.canvas import GREY, WIDTH_INCHES, style
from experiments.reporting.number_formats import three_digits, whole

WIDTHS = {"against": 17, "ratio": 24, "ours": 10, "theirs": 10, "peak MiB": 14}  # of columns on a terminal


def line(record: dict[str, Any]) -> str:
    """One record in one line."""
    both = (
        f"; accuracy {record['accuracy']:.2f} % and {record['theirs_accuracy']:.2f} %" if "accuracy" in record else ""
    )
    return (
        f"{_headline(record)}; against {record['baseline']} on {processor(record)} {_ratio(record)}, "
        f"{three_digits(record['ours'])} and {three_digits(record['theirs'])} {record['unit']}{both}"
    )


def processor(facts: dict[str, Any]) -> str:
    """The GPU, or the CPU with its matrix units, of a record or of `machine.describe`."""
    return facts.get("gpu") or f"{facts['cpu']} ({facts['matrix_units']})"


def frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The columns that are shown."""
    rows = []
    for record in records:
        peaks = (record.get(key) for key in ("ours_peak_mb", "theirs_peak_mb"))
        rows.append({
            **{key: record[key] for key in ("name", "classes", "batch", "precision")},
            "of the product": _percent(record), "against": record["baseline"], "ratio": _ratio(record),
            **{key: three_digits(record[key]) for key in ("ours", "theirs")}, "unit": record["unit"],
            "peak MiB": " / ".join("–" if peak is None else whole(peak) for peak in peaks),
        })  # fmt: skip
    return pd.DataFrame(rows)


def terminal_table(records: list[dict[str, Any]]) -> Group:
    """One block per comparison, a row per baseline, at most 80 characters wide."""
    blocks: dict[str, Table] = {}
    for record, row in zip(records, frame(records).to_dict("records"), strict=True):
        title = _headline(record)
        if title not in blocks:
            blocks[title] = Table(box=None, pad_edge=False, show_header=not blocks)
            for heading, width in WIDTHS.items():
                justify: JustifyMethod = "left" if heading == "against" else "right"
                blocks[title].add_column(heading, width=width, justify=justify, overflow="fold")
        colour = "green" if record["ratio"] >= 1 else "red"
        blocks[title].add_row(*(Text(row[heading], colour if heading == "ratio" else "") for heading in WIDTHS))
    parts = (part for title, table in blocks.items() for part in (Text(title, "bold"), table))
    return Group(f"Ratios on {processor(records[0])}, {records[0]['threads']} threads", *parts)


def markdown(
    records: list[dict[str, Any]], skipped: list[dict[str, str]], machine: dict[str, Any], picture: str | None
) -> str:
    """The page of a run."""
    shown = frame(records)
    rows = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())
    parts = [
        "# Benchmark", f"{facts}.",
        f"Ratios on {processor(machine)}; above 1 ours is better. A ratio is that of the medians; in brackets are the "
        "smallest and the largest ratio of a pair. `of the product`: speed of our training as a fraction of the "
        "machine's own matrix product in that precision. Peak memory (ours / theirs) is the rise during a measurement.",
        "\n".join(f"| {' | '.join(row)} |" for row in cells) if records else "Nothing was measured.",
    ]  # fmt: skip
    if picture:
        parts.append(f"![Ratios]({picture})")
    if skipped:
        lines = [f"- {each['name']} against {each['baseline']}: {each['reason']}" for each in skipped]
        parts += ["## Skipped", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def ratio_figure(records: list[dict[str, Any]]) -> Figure:
    """A bar per record from 1 to its ratio, whiskers from the smallest to the largest pair, on a logarithmic axis."""
    data, places = pd.DataFrame(records), range(len(records))
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.4 * len(records)), layout="constrained")
        axis = figure.subplots()
        colours = ["#1b7a4b" if better else "#b4541a" for better in data.ratio >= 1]
        axis.barh(places, data.ratio - 1, left=1, height=0.6, color=colours)
        for place, ratio, most in zip(places, data.ratio, data.ratio_max, strict=True):
            at = (max(most, 1), place)
            axis.annotate(three_digits(ratio), at, (5, 0), textcoords="offset points", va="center", fontsize=9)
        axis.errorbar(
            data.ratio, places, xerr=[data.ratio - data.ratio_min, data.ratio_max - data.ratio], fmt="none",
            ecolor=GREY, elinewidth=1.4, capsize=3,
        )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.axvline(1, color=GREY, linewidth=1)
        axis.margins(x=0.15)
        axis.invert_yaxis()
        labels = [f"{_what(each)}\n{each['precision']}, {each['baseline']}" for each in records]
        axis.set_yticks(places, labels, fontsize=8)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"ratio; right of 1 ours is better\n{processor(records[0])}")
    return figure


def _what(record: dict[str, Any]) -> str:
    batch = record["batch"]  # a number, or auto
    return f"{record['name']}, {whole(record['classes'])} classes, B = {batch if batch == 'auto' else whole(batch)}"


def _headline(record: dict[str, Any]) -> str:
    fraction = f": {_percent(record)} of the matrix product" if "product_fraction" in record else ""
    return f"{_what(record)}, {record['precision']}, {record['unit']}{fraction}"


def _percent(record: dict[str, Any]) -> str:
    return f"{100 * record['product_fraction']:.0f} %" if "product_fraction" in record else "–"


def _ratio(record: dict[str, Any]) -> str:
    return f"{three_digits(record['ratio'])} [{three_digits(record['ratio_min'])}, {three_digits(record['ratio_max'])}]"
