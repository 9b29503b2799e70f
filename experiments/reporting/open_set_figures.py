# SPDX-License-Identifier: MIT
"""How scenarios err: by cluster or class, by rank (CMC), and with persons who are not enrolled (rates, DET curves)."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.reporting import wording
from experiments.reporting.canvas import legend_entries, panels, style, to_png
from experiments.reporting.document import Block, Cell, Picture, Section, Table, place_table, written
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
    return [Cell(method, colour=look[method].colour), Cell(data), written(n), written(m)]


def _groups(frame: pd.DataFrame, keys: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    order = method_order(frame)
    groups = frame.groupby(keys, sort=False)
    return sorted(groups, key=lambda item: (*item[0][:3], order.index(item[0][3]), *map(str, item[0][4:])))


def _mean_cells(rows: pd.DataFrame, *columns: str) -> list[Cell]:
    return [written(rows[column].mean(), wording.percent) for column in columns]


def _errors_table(errors: pd.DataFrame) -> Table:
    body, look, groups = [], looks(errors), _groups(errors, _KEYS)
    for key, rows in groups:
        worst = written(rows["worst_cluster_recall"].min(), wording.percent)
        body.append([*_place_cells(key, look), *_mean_cells(rows, "correct", "wrong_cluster", "wrong_class"), worst])
    columns = ("Scenario", "Data", "N", "m", "Right", "Wrong cluster", "Wrong class", "Worst cluster")
    note = (
        "Percent of the test probes, means over seeds. Wrong cluster: no cluster of the person was looked into. Wrong "
        "class: one was, and another name was given. Worst cluster: the lowest mean recall of any cluster and seed."
    )
    return place_table("Where the errors come from (%)", columns, body, note, [key[:3] for key, _ in groups])


def _rates_table(open_set: pd.DataFrame) -> Table:
    body, look, groups = [], looks(open_set), _groups(open_set, [*_KEYS, "score", "fpir"])
    unresolved = open_set["unresolved"].any()
    for (*place, score, fpir), rows in groups:
        low, tpir, high = rows[["tpir_low", "tpir", "tpir_high"]].mean()
        interval = wording.NOTHING if math.isnan(tpir) else f"{wording.percent(low)} to {wording.percent(high)}"
        cells = [*_place_cells(tuple(place), look), Cell(_SCORES.get(score, score)), written(fpir, wording.percent)]
        cells += [written(tpir, wording.percent), Cell(interval)]
        cells += _mean_cells(rows, "fnir", "wrong_cluster", "wrong_class", "under_threshold")
        body.append([*cells, Cell(next(filter(None, rows["unresolved"]), ""))] if unresolved else cells)
    columns = ["Scenario", "Data", "N", "m", "Score", "FPIR", "TPIR", "95 % interval", "FNIR"]
    columns += ["Wrong cluster", "Wrong class", "Under threshold", *(["Not resolved"] if unresolved else [])]
    note = "Percent, means over seeds (of the bounds too). FNIR is the sum of the three kinds of error after it."
    starts = [key[:4] for key, _ in groups]
    return place_table("Identification with unknown persons (%)", columns, body, note, starts)


@style()
def _pictures(
    frame: pd.DataFrame, name: str, draw: Callable[[Axes, pd.DataFrame, Look], None], caption: str
) -> list[Picture]:
    pictures = []
    for i, ((data, n, m), rows) in enumerate(frame.groupby(_KEYS[:3], sort=False), start=1):
        place, look = f"{data}, N = {wording.whole(n)}, m = {wording.whole(m)}", looks(rows)
        figure, (axis,) = panels([3.2], legend_entries(look))
        for method, lines in rows.groupby("method", sort=False):
            draw(axis, lines, look[method])
        axis.set_title(place)
        pictures.append(Picture(f"{name}_{i}", f"{place}. {caption}", caption, to_png(figure)))
    return pictures


def _draw_cmc(axis: Axes, lines: pd.DataFrame, look: Look) -> None:
    means = lines.groupby("rank")["identification_rate"].mean()
    axis.plot(means.index, means, **look.line, markevery=3, markeredgecolor="white")
    last = int(means.index.max())
    axis.set_xticks([1, *range(5, last + 1, 5)] if last >= 5 else range(1, last + 1))
    axis.set_xlabel("rank k")
    axis.set_ylabel("probes named among the first k (%)")


def _draw_det(axis: Axes, lines: pd.DataFrame, look: Look) -> None:
    lines = lines[lines["seed"] == lines["seed"].min()].sort_values("fpir")
    # A curve of zero errors has no place on a logarithmic axis: it is drawn at the foot.
    fnir = lines["fnir"].clip(lower=0.01)
    axis.loglog(lines["fpir"], fnir, **look.line, markevery=max(1, len(lines) // 8), markeredgecolor="white")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())
    axis.set_xlabel("FPIR (%)")
    axis.set_ylabel("FNIR (%)")
