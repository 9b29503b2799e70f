# SPDX-License-Identifier: MIT
"""How scenarios err: by cluster or class, by rank (CMC), and with persons who are not enrolled (rates, DET curves)."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import legend, legend_entries, legend_height, panels, to_png
from experiments.reporting.document import (
    Block,
    Cell,
    Picture,
    Section,
    Table,
    drop_constant,
    group_starts,
    number_cell,
)
from experiments.reporting.methods import Look, data_title, looks, method_order, scenario_title

_SCORES = {"own": "own score", "class_mean": "cosine with the class mean", "lead": "lead over the second"}
_KEYS = ["data", "n_identities", "n_subnets", "method"]


def error_sections(details: Mapping[str, pd.DataFrame]) -> list[Section]:
    """The sections "Errors" and "Unknown persons" of a comparison; without blocks where nothing is known.

    Args:
        details: details/*.csv by name.
    """
    errors: list[Block] = [_errors_table(_labelled(details["errors"]))] if "errors" in details else []
    if "cmc" in details:
        errors += _pictures(_labelled(details["cmc"]), "cmc", _draw_cmc, "Share of the test probes whose identity is "
                            "among the first k candidates (CMC), mean over seeds.")  # fmt: skip
    unknown: list[Block] = [_rates_table(_labelled(details["open_set"]))] if "open_set" in details else []
    if "det" in details:
        det = _labelled(details["det"])
        det = det[det["score"] == "own"]
        unknown += _pictures(det, "det", _draw_det, "Test probes not named rightly (FNIR) against probes of unknown "
                             "persons given a name (FPIR), each scenario by its own score, first seed.")  # fmt: skip
    note = (
        "A probe of an unknown person is a false positive where its best score reaches the threshold; a test probe is "
        "a hit where the first answer is right and its score is above it. The threshold of a false-positive rate "
        "(FPIR) is that of the probes of unknown persons themselves. Intervals: 95 %, resampling persons."
    )
    return [Section("Errors", tuple(errors)), Section("Unknown persons", tuple(unknown), (note,) if unknown else ())]


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(data=frame["dataset"].map(data_title), method=frame["scenario"].map(scenario_title))


def _place_cells(key: tuple, look: Mapping[str, Look]) -> list[Cell]:
    data, n, m, method = key
    numbers = (number_cell(wording.whole(number), number) for number in (n, m))
    return [Cell(method, colour=look[method].colour), Cell(data), *numbers]


def _groups(frame: pd.DataFrame, keys: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    order = {method: i for i, method in enumerate(method_order(frame))}
    groups = frame.groupby(keys, sort=False)
    return sorted(groups, key=lambda item: (*item[0][:3], order[item[0][3]], *map(str, item[0][4:])))


def _percent_cell(values: pd.Series) -> Cell:
    mean = float(values.mean()) if values.notna().any() else math.nan
    return number_cell(wording.percent(mean), mean)


def _errors_table(errors: pd.DataFrame) -> Table:
    body, places, look = [], [], looks(errors)
    for key, rows in _groups(errors, _KEYS):
        places.append(key[:3])
        worst = rows["worst_cluster_recall"]
        body.append((
            *_place_cells(key, look),
            *(_percent_cell(rows[column]) for column in ("correct", "wrong_cluster", "wrong_class")),
            number_cell(wording.percent(worst.min()), worst.min()),
        ))  # fmt: skip
    columns = ("Scenario", "Data", "N", "m", "Right", "Wrong cluster", "Wrong class", "Worst cluster")
    note = (
        "Percent of the test probes, means over seeds. Wrong cluster: no cluster of the person was looked into. Wrong "
        "class: one was, and another name was given. Worst cluster: the lowest mean recall of any cluster and seed."
    )
    table = Table("Where the errors come from (%)", columns, tuple(body), note, group_starts(places))
    return drop_constant(table, ("Data", "N", "m"))


def _rates_table(open_set: pd.DataFrame) -> Table:
    body, places, look = [], [], looks(open_set)
    for key, rows in _groups(open_set, [*_KEYS, "score", "fpir"]):
        places.append(key[:4])
        score, fpir = key[4:]
        unresolved = [text for text in rows["unresolved"] if text]
        tpir = rows["tpir"].mean()
        interval = wording.NOTHING
        if not math.isnan(tpir):
            interval = f"{wording.percent(rows['tpir_low'].mean())} to {wording.percent(rows['tpir_high'].mean())}"
        body.append((
            *_place_cells(key[:4], look),
            Cell(_SCORES.get(score, score)),
            number_cell(wording.percent(fpir), fpir),
            number_cell(wording.percent(tpir), tpir),
            Cell(interval),
            *(_percent_cell(rows[column]) for column in ("fnir", "wrong_cluster", "wrong_class", "under_threshold")),
            Cell(unresolved[0] if unresolved else ""),
        ))  # fmt: skip
    columns = (
        "Scenario", "Data", "N", "m", "Score", "FPIR", "TPIR", "95 % interval", "FNIR", "Wrong cluster", "Wrong class",
        "Under threshold", "Not resolved",
    )  # fmt: skip
    note = "Percent, means over seeds (of the bounds too). FNIR is the sum of the three kinds of error after it."
    starts = group_starts(places)
    table = Table("Identification with unknown persons (%)", columns, tuple(body), note, starts)
    if not any(row[-1].text for row in body):
        table = Table(table.caption, columns[:-1], tuple(row[:-1] for row in body), note, starts)
    return drop_constant(table, ("Data", "N", "m"))


def _pictures(frame: pd.DataFrame, name: str, draw, caption: str) -> list[Picture]:
    pictures = []
    for i, ((data, n, m), rows) in enumerate(frame.groupby(_KEYS[:3], sort=False), start=1):
        place = f"{data}, N = {wording.whole(n)}, m = {wording.whole(m)}"

        def figure(rows=rows, place=place) -> Figure:
            look = looks(rows)
            entries = legend_entries(look)
            made, (axis,) = panels([3.2], legend_height(len(entries)))
            for method, lines in rows.groupby("method", sort=False):
                draw(axis, lines, look[method])
            axis.set_title(place)
            legend(made, entries)
            return made

        pictures.append(Picture(f"{name}_{i}", f"{place}. {caption}", caption, to_png(figure)))
    return pictures


def _draw_cmc(axis: Axes, lines: pd.DataFrame, style) -> None:
    means = lines.groupby("rank")["identification_rate"].mean()
    axis.plot(
        means.index, means, color=style.colour, linestyle=style.dashes, marker=style.marker, markevery=3,
        markeredgecolor="white",
    )  # fmt: skip
    last = int(means.index.max())
    axis.set_xticks([1, *range(5, last + 1, 5)] if last >= 5 else range(1, last + 1))
    axis.set_xlabel("rank k")
    axis.set_ylabel("probes named among the first k (%)")


def _draw_det(axis: Axes, lines: pd.DataFrame, style) -> None:
    # A curve of zero errors has no place on a logarithmic axis: it is drawn at the foot.
    lines = lines[lines["seed"] == lines["seed"].min()].sort_values("fpir")
    fnir = lines["fnir"].clip(lower=0.01)
    axis.plot(
        lines["fpir"], fnir, color=style.colour, linestyle=style.dashes, marker=style.marker,
        markevery=max(1, len(lines) // 8), markeredgecolor="white",
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axis.set_xlabel("FPIR (%)")
    axis.set_ylabel("FNIR (%)")
