# SPDX-License-Identifier: MIT
"""The comparison as a table for the terminal."""

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from experiments.reporting import number_formats
from experiments.reporting.columns import KNOWN, Column, added
from experiments.reporting.methods import label_methods, reference_title, scenario_title
from experiments.reporting.statistics import SETTING, Interval, means_over_seeds, paired_differences, speedups
from experiments.reporting.tables import score_headings

_STYLES = {1: "bold green", -1: "bold red", 0: "dim", None: ""}


def terminal_table(frame: pd.DataFrame) -> Table:
    """The scores of every scenario with the difference to ISM (or, without ISM, to no distribution) and the times.

    Scenarios have their names in `scenarios=[...]`. For those of the paper 80 characters are wide enough.
    """
    frame = label_methods(frame)
    reference = "ism" if "ism" in set(frame["scenario"]) else "no_distribution"
    means, further = means_over_seeds(frame), added(frame)
    differences = paired_differences(frame, reference)
    differences = differences[differences["metric"] == "f1"].set_index(SETTING)["interval"]
    times = speedups(frame).groupby(SETTING)[["epoch_seconds_serial", "epoch_seconds_parallel"]].mean()
    seeds = number_formats.seeds_phrase(list(means["seeds"]))
    change = f"F1 − {reference_title(reference)}"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, caption_justify="left")
    table.caption = Text(
        f"Percent, {seeds}. ±: sample standard deviation. {change}: paired by seed, [95 % corrected t interval], "
        "▲ above 0, ▼ below, ≈ neither shown (Holm's correction). Serial, parallel: seconds per epoch."
    )
    table.add_column("", overflow="fold", min_width=17)
    others = score_headings(further)
    for heading in ("Prec.", "Recall", "F1", change, *others, "serial", "parallel"):
        # Wide intervals go onto a second line rather than push the seconds out of the window.
        wide = heading in (change, *others)
        table.add_column(heading, justify="right", no_wrap=not wide, min_width=8 if heading == change else None)
    for (data, n_identities), rows in means.groupby(["data", "n_identities"], sort=False):
        table.add_section()
        m = sorted(rows.loc[rows["n_subnets"] > 1, "n_subnets"].unique())
        clusters = f", m = {', '.join(map(number_formats.whole, m))}" if m else ""
        # Text, not str: rich would read "[...]" in a name as markup.
        table.add_row(Text(f"{data}, N = {number_formats.whole(n_identities)}{clusters}", "bold"))
        for _, row in rows.iterrows():
            key = (data, n_identities, row["method"])
            name = row["scenario"] + row["method"].removeprefix(scenario_title(row["scenario"]))
            table.add_row(
                Text(name, "bold" if row["scenario"] == "clustered_nearest" else ""),
                number_formats.percent(row["precision"]),
                number_formats.percent(row["recall"]),
                _spread(row, KNOWN["f1"]),
                _change(differences.get(key)),
                *(_spread(row, column) for column in further),
                *map(number_formats.seconds, times.loc[key]),
            )
    return table


def _spread(row: pd.Series, column: Column) -> str:
    return number_formats.spread(row[column.name], row[f"{column.name}_sd"], column.digits or 0).replace(" ", "")


def _change(interval: Interval | None) -> Text:
    if interval is None:
        return Text(number_formats.NOTHING)
    text = number_formats.difference(interval).replace(", ", ",").replace("] ", "]")
    return Text(text, _STYLES[interval.sign])
