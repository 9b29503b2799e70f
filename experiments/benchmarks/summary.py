# SPDX-License-Identifier: MIT
"""Records as a line, a table, a figure and a page of markdown."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from experiments.reporting.canvas import GREY, WIDTH_INCHES, style
from experiments.reporting.wording import three_digits, whole

COLUMNS: tuple[tuple[str, int, JustifyMethod], ...] = (
    ("  against", 17, "left"), ("ratio", 24, "right"), ("ours", 10, "right"), ("theirs", 10, "right"),
    ("peak MiB", 14, "right"),
)  # fmt: skip
OURS_BETTER, THEIRS_BETTER = "#1b7a4b", "#b4541a"


def line(record: dict[str, Any]) -> str:
    """One record in one line."""
    accuracy = ""
    if "accuracy" in record:
        accuracy = f"; accuracy {record['accuracy']:.2f} % and {record['theirs_accuracy']:.2f} %"
    return (
        f"{_what(record)}, {record['precision']}, against {record['against']}: {_ratio(record)}; "
        f"{three_digits(record['ours'])} and {three_digits(record['theirs'])} {record['unit']}{accuracy}"
    )


def frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The columns that are shown: what, against whom, ratio with its range, both values, peak memory."""
    return pd.DataFrame(
        {
            **{key: record[key] for key in ("name", "classes", "batch", "precision", "against")},
            "ratio": _ratio(record),
            **{key: three_digits(record[key]) for key in ("ours", "theirs")},
            "unit": record["unit"],
            "peak MiB": _peaks(record),
        }
        for record in records
    )


def terminal_table(records: list[dict[str, Any]]) -> Group:
    """One block per comparison, a row per rival: 80 characters are enough."""
    blocks: dict[str, Table] = {}
    for record in records:
        title = f"{_what(record)}, {record['precision']}, in {record['unit']}"
        if title not in blocks:
            blocks[title] = Table(box=None, pad_edge=False, show_header=not blocks)
            for heading, width, justify in COLUMNS:
                blocks[title].add_column(heading, width=width, justify=justify, overflow="fold")
        ratio = Text(_ratio(record), "green" if record["ratio"] >= 1 else "red")
        values = (three_digits(record[key]) for key in ("ours", "theirs"))
        blocks[title].add_row(Text(f"  {record['against']}"), ratio, *values, _peaks(record))
    return Group(*(part for title, table in blocks.items() for part in (Text(title, "bold"), table)))


def markdown(
    records: list[dict[str, Any]], skipped: list[dict[str, str]], machine: dict[str, Any], picture: str | None
) -> str:
    """The page of a run: machine, table, figure where there is one, what was skipped."""
    shown = frame(records)
    rows = [list(shown.columns), ["---"] * shown.shape[1], *shown.values.tolist()]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    table = [f"| {' | '.join(row)} |" for row in cells] if records else ["Nothing was measured."]
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())
    parts = [
        "# Benchmark", facts + ".",
        "A ratio above 1 means that ours is better. It is the ratio of medians; in brackets stand the smallest and the "
        "largest ratio of a pair. Peak memory (ours / theirs) is what the process held more than before, in MiB.",
        "\n".join(table),
    ]  # fmt: skip
    if picture:
        parts.append(f"![Ratios]({picture})")
    if skipped:
        lines = [f"- {each['name']} against {each['against']}: {each['reason']}" for each in skipped]
        parts += ["## Skipped", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def ratio_figure(records: list[dict[str, Any]]) -> Figure:
    """A bar per record from 1 to its ratio, whiskers from the smallest to the largest pair, on a logarithmic axis."""
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.4 * len(records)), layout="constrained")
        axis = figure.subplots()
        places = range(len(records))[::-1]
        for place, each in zip(places, records, strict=True):
            colour = OURS_BETTER if each["ratio"] >= 1 else THEIRS_BETTER
            axis.barh(place, each["ratio"] - 1, left=1, height=0.6, color=colour)
            axis.plot([each["ratio_min"], each["ratio_max"]], [place, place], color=GREY, linewidth=1.4, marker="|")
            axis.annotate(
                three_digits(each["ratio"]), (max(each["ratio_max"], 1), place), xytext=(5, 0), fontsize=9,
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axis.axvline(1, color=GREY, linewidth=1)
        axis.margins(x=0.15)
        labels = [f"{_what(each)}\n{each['precision']}, {each['against']}" for each in records]
        axis.set_yticks(list(places), labels, fontsize=8)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("ratio; right of 1 ours is better")
    return figure


def _what(record: dict[str, Any]) -> str:
    return f"{record['name']}, {whole(record['classes'])} classes, B = {whole(record['batch'])}"


def _ratio(record: dict[str, Any]) -> str:
    return f"{three_digits(record['ratio'])} [{three_digits(record['ratio_min'])}, {three_digits(record['ratio_max'])}]"


def _peaks(record: dict[str, Any]) -> str:
    peaks = (record.get(key) for key in ("ours_peak_mb", "theirs_peak_mb"))
    return " / ".join("–" if peak is None else whole(peak) for peak in peaks)
