# SPDX-License-Identifier: MIT
"""The finding in one sentence, with its intervals and no more certainty than they give."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from experiments.reporting import statistics
from experiments.reporting.document import TONES, Tile
from experiments.reporting.methods import is_synthetic, reference_title, scenario_title
from experiments.reporting.number_formats import NOTHING, bounds, points, seeds_phrase, spread, three_digits, whole

METRIC = "f1"
PROPOSAL = "clustered_nearest"
# Each reference answers another question, and some need a word about it. KNN must be there, since it costs no training.
REFERENCES = {"ism": "", "no_distribution": "", "knn": "untrained; ", "random_nearest": "no clustering; "}
_MOST_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """The finding in one sentence, remarks on its intervals and on other data sets and N, and its single numbers."""

    sentence: str
    remarks: tuple[str, ...]
    tiles: tuple[Tile, ...]


def verdict(frame: pd.DataFrame) -> Verdict:
    """The finding of a comparison, from labelled rows (`methods.label_methods`)."""
    again = frame["scenario"].str.contains("refit=")  # trained on more images than the others
    frame = frame[~again] if not again.all() else frame
    subject, why = _subject(frame)
    data, n_identities = _place(frame, subject)
    here = frame[(frame["data"] == data) & (frame["n_identities"] == n_identities)]
    method = here.loc[here["scenario"] == subject, "method"].iloc[0]
    here = here[(here["scenario"] != subject) | (here["method"] == method)]  # one variant, to be paired with the others
    means = statistics.means_over_seeds(here, [METRIC]).dropna(subset=[METRIC])
    top = means[means[METRIC] >= means[METRIC].max() - 1e-9]

    found = {reference: _difference(here, method, reference) for reference in REFERENCES if reference != subject}
    found = {reference: interval for reference, interval in found.items() if interval}
    if len(top) and method not in set(top["method"]) and top["scenario"].iloc[0] not in found:
        if lead := _difference(here, top["method"].iloc[0], subject):
            found["best"] = lead
    found = dict(zip(found, statistics.holm(list(found.values())), strict=True))
    best = found.pop("best", None)

    m = here.loc[here["method"] == method, "n_subnets"].iloc[0]
    own = means[means["method"] == method]
    score = _score(own.iloc[0]) if len(own) else NOTHING
    seeds = seeds_phrase([int(own["seeds"].iloc[0])]) if len(own) else "no seed"
    place = f"In macro F1 on {data} with N = {whole(n_identities)} identities"
    place += f" in m = {whole(m)} clusters" if m > 1 else ""
    named = {f"{reference_title(name)} ({REFERENCES[name]}": one for name, one in found.items()}
    said = _compared(named) if named else f"reaches {score} %"
    sentence = f"{place} ({seeds}), {method} {said}{_best(top, method, best) if len(means) > 1 else ''}."
    remarks, comparisons = [why] if why else [], len(found) + (best is not None)
    if here["seed"].nunique() > 1 and comparisons:
        holds = f'"Above" and "below" hold after Holm\'s correction over {comparisons} comparison(s).'
        remarks.append(f"Intervals: {statistics.interval_note(here)}. {holds}")
    if best:
        remarks.append("The scenario of highest mean was chosen by that mean, so its lead is optimistic.")
    if subject == PROPOSAL and "knn" not in found:
        remarks.append("KNN, which needs no training, is not compared: the verdict does not show what training gains.")
    remarks += filter(None, (_count(frame, subject, reference) for reference in found))
    tiles = [Tile(f"F1 of {method} (%)", score, f"{seeds}; ± standard deviation" if "±" in score else seeds)]
    for name, one in found.items():
        detail = f"95 % interval {bounds(one)}" if one.known else "single seed: no interval"
        tiles.append(Tile(f"F1 against {reference_title(name)} (points)", points(one.mean), detail, TONES[one.sign]))
    return Verdict(sentence, tuple(remarks), (*tiles, *_speed_tile(here, method)))


def _subject(frame: pd.DataFrame) -> tuple[str, str]:
    """The scenario that the verdict is about, and the reason if it is not the proposal."""
    scenarios = set(frame["scenario"])
    if PROPOSAL in scenarios:
        return PROPOSAL, ""
    others = frame[~frame["scenario"].isin(["ism", "no_distribution"])]
    best = (others if len(others) else frame).groupby("scenario")[METRIC].mean().dropna()
    if best.empty:
        return sorted(scenarios)[0], ""
    return str(best.idxmax()), f"{scenario_title(PROPOSAL)} was not run; this is the scenario of highest mean F1."


def _place(frame: pd.DataFrame, scenario: str) -> tuple[str, float]:
    """Data set and N of the verdict: the largest N with that scenario, real data before synthetic."""
    rows = frame[frame["scenario"] == scenario]
    real = rows[~rows["dataset"].map(is_synthetic)]
    row = rows.loc[(real if len(real) else rows)["n_identities"].idxmax()]
    return row["data"], row["n_identities"]


def _difference(here: pd.DataFrame, method: str, reference: str) -> statistics.Interval | None:
    rows = statistics.paired_differences(here, reference)
    rows = rows[(rows["method"] == method) & (rows["metric"] == METRIC)]
    return rows["interval"].iloc[0] if len(rows) else None


def _compared(found: Mapping[str, statistics.Interval]) -> str:
    """The part of the sentence on some differences, by name and open bracket: those of one relation together."""
    relations = {1: "is above", -1: "is below", 0: "is not shown to differ from", None: "differs from"}
    said = []
    for sign in dict.fromkeys(interval.sign for interval in found.values()):
        parts = []
        for name, one in found.items():
            limits = f", 95 % interval {points(one.low)} to {points(one.high)}" if one.known else ""
            parts += [f"{name}{points(one.mean)} points{limits})"] if one.sign == sign else []
        said.append(f"{relations[sign]} {', '.join(parts)}")
    said[-1] += "" if any(one.known for one in found.values()) else " (a single seed: no interval, this may be chance)"
    return ", and ".join(said)


def _score(row: pd.Series) -> str:
    return spread(row[METRIC], row[f"{METRIC}_sd"])


def _best(top: pd.DataFrame, method: str, lead: statistics.Interval | None) -> str:
    """The end of the sentence: the scenario of highest mean, and its lead over the proposal."""
    if top.empty:
        return ""
    if list(top["method"]) == [method]:
        return f"; it has the highest mean ({_score(top.iloc[0])} %)"
    named = " and ".join(f"{row['method']} ({_score(row)} %)" for _, row in top.head(_MOST_NAMED).iterrows())
    named += f", and {len(top) - _MOST_NAMED} others alike" if len(top) > _MOST_NAMED else ""
    return f"; the highest mean has {named}" + (f", which {_compared({f'{method} (': lead})}" if lead else "")


def _count(frame: pd.DataFrame, subject: str, reference: str) -> str:
    rows = statistics.paired_differences(frame, reference)
    rows = rows[(rows["scenario"] == subject) & (rows["metric"] == METRIC)]
    if len(rows) < 2:
        return ""
    signs = [interval.sign for interval in rows["interval"]]
    words = {1: "above", 0: "no difference shown", -1: "below", None: "one seed only"}
    parts = [f"{what} in {signs.count(sign)}" for sign, what in words.items() if sign in signs]
    return f"Against {reference_title(reference)} over all {len(signs)} settings: {', '.join(parts)}."


def _speed_tile(here: pd.DataFrame, method: str) -> list[Tile]:
    times = statistics.speedups(here)
    times = times[(times["method"] == method) & times["speedup_serial"].notna()]
    if times.empty:
        return []
    serial, parallel = times[["speedup_serial", "speedup_parallel"]].iloc[0]
    detail = f"serial; × {three_digits(parallel)} in parallel" if parallel > 0 else "serial"
    return [Tile("Faster per epoch than no distribution", f"× {three_digits(serial)}", detail)]
