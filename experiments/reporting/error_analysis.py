# SPDX-License-Identifier: MIT
"""How scenarios err: by cluster or class, by rank (CMC), by identity, and with unknown persons (rates, DET curves)."""

import math
from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.reporting.canvas import drawn, legend_entries, panels, style
from experiments.reporting.document import Picture, Table, TableCell, place_table
from experiments.reporting.methods import Look, looks, method_order, scenario_order, scenario_title, with_data_title
from experiments.reporting.number_formats import NOTHING, percent, whole

UNKNOWN_NOTE = (
    "A probe of an unknown person is a false positive if its best score reaches the threshold. A test probe is a hit "
    "if the first answer is right and its score is above the threshold. The threshold of a false-positive rate (FPIR) "
    "is set on the probes of unknown persons themselves. Intervals: 95 %, resampling persons."
)
_SCORES = {"own": "own score", "class_mean": "cosine with the class mean", "lead": "lead over the second"}
_KEYS = ["data", "n_identities", "n_subnets", "method"]


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    frame = with_data_title(frame).assign(method=frame["scenario"].map(scenario_title))
    return frame.assign(method=pd.Categorical(frame["method"], method_order(frame), ordered=True))


def _table(caption: str, rows: pd.DataFrame, look: Mapping[str, Look], note: str, group: list[str]) -> Table:
    """A table of percentages, indexed by `_KEYS`; a group of rows shares the columns in `group`."""
    rows = rows.reset_index()
    groups = list(rows[group].itertuples(index=False, name=None))
    rows.insert(0, "Scenario", [TableCell(method, colour=look[method].colour) for method in rows.pop("method")])
    rows = rows.rename(columns={"data": "Data", "n_identities": "N", "n_subnets": "m"})
    return place_table(caption, rows, dict.fromkeys(rows, percent) | dict.fromkeys(("N", "m"), whole), note, groups)


def errors_table(errors: pd.DataFrame) -> Table:
    """Shares of right answers and of the two kinds of error, from details/errors.csv."""
    errors = _labelled(errors)
    groups, columns = errors.groupby(_KEYS, observed=True), ["correct", "wrong_cluster", "wrong_class"]
    rows = groups[columns].mean().set_axis(["Right", "Wrong cluster", "Wrong class"], axis=1)
    rows["Worst cluster"] = groups["worst_cluster_recall"].min()
    note = (
        "Percent of the test probes, means over seeds. Wrong cluster: no cluster of the person was searched. Wrong "
        "class: one was, and another name was given. Worst cluster: the lowest mean recall of any cluster and seed."
    )
    return _table("Where the errors come from (%)", rows, looks(errors), note, _KEYS[:3])


def rates_table(open_set: pd.DataFrame) -> Table:
    """Rates of identification with unknown persons, from details/open_set.csv."""
    open_set = _labelled(open_set)
    groups = open_set.groupby([*_KEYS, "score", "fpir"], observed=True)
    columns = ["tpir", "tpir_low", "tpir_high", "fnir", "wrong_cluster", "wrong_class", "under_threshold"]
    rows = groups[columns].mean()
    rows.insert(1, "95 % interval", [
        NOTHING if math.isnan(low) else f"{percent(low)} to {percent(high)}"
        for low, high in zip(rows.pop("tpir_low"), rows.pop("tpir_high"), strict=True)
    ])  # fmt: skip
    if open_set["unresolved"].any():
        rows["Not resolved"] = groups["unresolved"].agg(lambda texts: next(filter(None, texts), ""))
    rows = rows.reset_index(["score", "fpir"])
    rows["score"] = rows["score"].map(lambda score: _SCORES.get(score, score))
    shown = {"score": "Score", "fpir": "FPIR", "tpir": "TPIR", "fnir": "FNIR", "wrong_cluster": "Wrong cluster"}
    rows = rows.rename(columns=shown | {"wrong_class": "Wrong class", "under_threshold": "Under threshold"})
    note = "Percent, means over seeds (of the bounds too). FNIR is the sum of the three kinds of error after it."
    return _table("Identification with unknown persons (%)", rows, looks(open_set), note, _KEYS)


def hardest_table(identities: pd.DataFrame, count: int = 20) -> Table:
    """The `count` identities with the lowest recall, over all scenarios that report them."""
    recall = identities.pivot_table("recall", "identity", "scenario", aggfunc="mean")
    recall = recall[scenario_order(recall.columns)]
    samples = identities.groupby("identity")["test_samples"].max()
    hardest = pd.DataFrame({"scenarios": -recall.notna().sum(axis=1), "recall": recall.mean(axis=1)})
    recall = recall.loc[hardest.sort_values(["scenarios", "recall"], kind="stable").head(count).index]
    rows = recall.rename(columns=scenario_title).assign(**{"Test images": samples}).reset_index(names="Identity")
    note = (
        "Every seed and N names the hardest identities of each scenario; a number is the mean over those that name "
        "this one. First those that are hard for the most scenarios; a dash: not among that scenario's hardest."
    )
    formats = dict.fromkeys(rows, percent) | {"Test images": whole}
    return place_table(f"The {len(rows)} hardest identities: recall (%)", rows, formats, note)


def cmc_pictures(cmc: pd.DataFrame) -> list[Picture]:
    """The CMC curves of each data set, N and m, from details/cmc.csv."""
    caption = "Share of the test probes whose identity is among the first k candidates (CMC), mean over seeds."
    return _pictures(cmc, "cmc", _draw_cmc, caption)


def det_pictures(det: pd.DataFrame) -> list[Picture]:
    """The DET curves of each data set, N and m, from details/det.csv."""
    caption = "Test probes not named rightly (FNIR) against probes of unknown persons given a name (FPIR), each "
    return _pictures(det[det["score"] == "own"], "det", _draw_det, caption + "scenario by its own score, first seed.")


@style()
def _pictures(
    frame: pd.DataFrame, name: str, draw: Callable[[Axes, pd.DataFrame, Look], None], caption: str
) -> list[Picture]:
    pictures = []
    for i, ((data, n, m), rows) in enumerate(_labelled(frame).groupby(_KEYS[:3], sort=False), start=1):
        place, look = f"{data}, N = {whole(n)}, m = {whole(m)}", looks(rows)
        figure, (axis,) = panels([3.2], legend_entries(look))
        for method, lines in rows.groupby("method", sort=False, observed=True):
            draw(axis, lines, look[method])
        axis.set_title(place)
        pictures.append(Picture(f"{name}_{i}", f"{place}. {caption}", caption, *drawn(figure)))
    return pictures


def _draw_cmc(axis: Axes, lines: pd.DataFrame, look: Look) -> None:
    means = lines.groupby("rank")["identification_rate"].mean()
    axis.plot(means.index, means, **look.line, markevery=3, markeredgecolor="white")
    last = int(means.index.max())
    axis.set_xticks([1, *range(5, last + 1, 5)] if last >= 5 else range(1, last + 1))
    axis.set(xlabel="rank k", ylabel="probes named among the first k (%)")


def _draw_det(axis: Axes, lines: pd.DataFrame, look: Look) -> None:
    lines = lines[lines["seed"] == lines["seed"].min()].sort_values("fpir")
    # A logarithmic axis has no 0: a curve without errors is drawn at the foot.
    fnir = lines["fnir"].clip(lower=0.01)
    axis.loglog(lines["fpir"], fnir, **look.line, markevery=max(1, len(lines) // 8), markeredgecolor="white")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())
    axis.set(xlabel="FPIR (%)", ylabel="FNIR (%)")
