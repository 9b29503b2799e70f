# SPDX-License-Identifier: MIT
"""The finding in one sentence, with its intervals and no more certainty than they give."""

from dataclasses import dataclass

import pandas as pd

from experiments.reporting import wording
from experiments.reporting.document import Tile
from experiments.reporting.methods import is_synthetic, reference_title, scenario_title
from experiments.reporting.statistics import Interval, paired_differences, speedups
from experiments.reporting.tables import TONES, summary

METRIC = "f1"
PROPOSAL = "clustered_nearest"
REFERENCES = ("ism", "no_distribution")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """The finding.

    Args:
        sentence: the proposal against its references, where N is largest, on real data if there are any.
        remarks: the best scenario there, and the count over all data sets and N.
        tiles: the same as single numbers.
    """

    sentence: str
    remarks: tuple[str, ...]
    tiles: tuple[Tile, ...]


def _against(interval: Interval, reference: str) -> str:
    name, value = reference_title(reference), f"{wording.points(interval.mean)} points"
    if not interval.known:
        return f"differs from {name} by {value} (a single seed: no interval, so this may be chance)"
    limits = f"95 % interval {wording.points(interval.low)} to {wording.points(interval.high)}, {interval.count} seeds"
    if interval.sign == 0:
        return f"is not distinguishable from {name}: {value} ({limits}, which includes 0)"
    return f"is {'above' if interval.sign == 1 else 'below'} {name} by {value} ({limits})"


def _subject(frame: pd.DataFrame) -> tuple[str, str]:
    """The scenario that the verdict is about, and why where it is not the proposal."""
    scenarios = set(frame["scenario"])
    if PROPOSAL in scenarios:
        return PROPOSAL, ""
    rivals = frame[~frame["scenario"].isin(REFERENCES)]
    best = (rivals if len(rivals) else frame).groupby("scenario")[METRIC].mean()
    if best.dropna().empty:
        return sorted(scenarios)[0], ""
    return str(best.idxmax()), f"{scenario_title(PROPOSAL)} was not run; this is the scenario of highest mean F1."


def headline_place(frame: pd.DataFrame, scenario: str) -> tuple[str, float]:
    """Data set and N that the verdict speaks of: the largest N with that scenario, real data before synthetic."""
    rows = frame[frame["scenario"] == scenario]
    real = rows[~rows["dataset"].map(is_synthetic)]
    rows = real if len(real) else rows
    row = rows.loc[rows["n_identities"].idxmax()]
    return row["data"], row["n_identities"]


def verdict(frame: pd.DataFrame) -> Verdict:
    """States what the comparison found.

    Args:
        frame: labelled rows (`methods.label_methods`).
    """
    subject, why = _subject(frame)
    data, n_identities = headline_place(frame, subject)
    here = frame[(frame["data"] == data) & (frame["n_identities"] == n_identities)]
    means = summary(here).dropna(subset=[METRIC])
    method = here.loc[here["scenario"] == subject, "method"].iloc[0]
    m = here.loc[here["method"] == method, "n_subnets"].iloc[0]
    place = f"In macro F1 on {data} with N = {wording.whole(n_identities)} identities"
    place += f" in m = {wording.whole(m)} clusters" if m == m else ""
    own = means[means["method"] == method]
    score = wording.spread(own[METRIC].iloc[0], own[f"{METRIC}_sd"].iloc[0]) if len(own) else wording.NOTHING
    phrase = wording.seeds_phrase([int(own["seeds"].iloc[0])]) if len(own) else ""
    tiles = [Tile(f"F1 of {method} (%)", score, f"{phrase}; ± standard deviation" if "±" in score else phrase)]

    comparisons, counts = [], []
    for reference in REFERENCES:
        rows = paired_differences(frame, reference, (METRIC,))
        rows = rows[rows["scenario"] == subject]
        at = rows[(rows["data"] == data) & (rows["n_identities"] == n_identities) & (rows["method"] == method)]
        if subject == reference or at.empty:
            continue
        interval = at["interval"].iloc[0]
        comparisons.append(_against(interval, reference))
        detail = f"95 % interval {wording.bounds(interval)}" if interval.known else "single seed: no interval"
        detail += " includes 0" if interval.sign == 0 else ""
        label = f"F1 against {reference_title(reference)} (points)"
        tiles.append(Tile(label, wording.points(interval.mean), detail, TONES[interval.sign]))
        if len(rows) > 1:
            counts.append(_count(rows["interval"], reference))
    sentence = f"{place}, {method} "
    sentence += " and ".join(comparisons) if comparisons else f"reaches {score} % ({phrase})"
    tiles += _speed_tile(here, method)
    return Verdict(sentence + ".", tuple(part for part in (why, _best(means), *counts) if part), tuple(tiles))


def _best(means: pd.DataFrame) -> str:
    if means.empty:
        return ""
    top = means[means[METRIC] >= means[METRIC].max() - 1e-9]
    named = top.head(_MOST_NAMED)
    names = " and ".join(
        f"{row['method']} ({wording.spread(row[METRIC], row[f'{METRIC}_sd'])} %)" for _, row in named.iterrows()
    )
    names += f", and {len(top) - len(named)} others alike" if len(top) > len(named) else ""
    return f"Best scenario there by mean F1: {names}."


def _count(intervals: pd.Series, reference: str) -> str:
    signs = [interval.sign for interval in intervals]
    words = {1: "clearly above", 0: "no clear difference", -1: "clearly below", None: "one seed only"}
    parts = [f"{what} in {signs.count(sign)}" for sign, what in words.items() if sign in signs]
    return f"Against {reference_title(reference)} over all {len(signs)} settings: {', '.join(parts)}."


def _speed_tile(here: pd.DataFrame, method: str) -> list[Tile]:
    times = speedups(here)
    times = times[(times["method"] == method) & times["speedup_serial"].notna()]
    if times.empty:
        return []
    serial, parallel = times[["speedup_serial", "speedup_parallel"]].iloc[0]
    detail = f"serial; × {wording.three_digits(parallel)} in parallel" if parallel > 0 else "serial"
    return [Tile("Faster per epoch than no distribution", f"× {wording.three_digits(serial)}", detail)]
