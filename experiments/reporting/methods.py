# SPDX-License-Identifier: MIT
"""Titles, order and looks of scenarios and of the other choices, the same in every table and figure."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pandas as pd

from experiments.reporting.columns import SAMPLES, TABLE, added

# The order of scenarios, and titles for runs without details/scenarios.csv and for baselines.
_TITLES = {
    "no_distribution": "No distribution",
    "ism": "ISM (random + max-max)",
    "random_nearest": "Random + nearest class",
    "knn": "KNN (class means)",
    "clustered_maxmax": "Clustered + max-max",
    "clustered_nearest": "Clustered + nearest class",
    "clustered_fused": "Clustered + fused",
    "partial_fc": "Partial FC",
    "knn_metric": "KNN with metric",
    "no_distribution_fast": "No distribution, fast",
    "clustered_nearest_fast": "Clustered + nearest class, fast",
    "hf_softmax": "HF-Softmax (active classes)",
    "f2c": "F2C (dynamic class pool)",
    "multi_cognition": "Multi-cognition softmax",
    "mix_max_sim": "MixMaxSim",
    "dense_codes": "Output codes, dense",
    "sparse_codes": "Output codes, sparse",
    "label_mapping": "Label mapping, coprime",
    "label_mapping_mixed": "Label mapping, mixed radix",
    "faiss_ivf": "FAISS IVF, m lists, 1 probed",
    "faiss_ivf_wide": "FAISS IVF, 16 lists, 4 probed",
    "linear_svc": "LinearSVC",
    "logistic_regression": "Logistic regression",
}
_IN_SENTENCES = {"ism": "ISM", "knn": "KNN", "no_distribution": "no distribution"}
_CHOICES = {"random": "random partition (ISM)", "kmeans": "k-means partition", "max_output": "max-max"}

# Tol's "muted" colours, for all other scenarios.
_FURTHER_COLOURS = ("#cc79a7", "#882255", "#332288", "#999933", "#44aa99", "#aa4499", "#117733")
_FURTHER_MARKERS = "ph*<>8dH"
_DASHES: tuple[str | tuple, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))

# Columns that tell rows of one scenario apart, and their headings.
VARIANTS = {"n_subnets": "m"} | {
    name: name for name in ("partitioner", "loss", "init", "router", "decision", "setting")
}


@dataclass(frozen=True)
class Look:
    """The look of one method: colour, marker and dashes differ, so that no reader depends on colour alone."""

    colour: str
    marker: str
    dashes: str | tuple

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of matplotlib's functions that draw lines."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes}


# Okabe & Ito's colours without yellow, which is too pale on white.
_LOOKS = {
    "no_distribution": Look("#000000", "s", "-"),
    "ism": Look("#d55e00", "o", "--"),
    "random_nearest": Look("#e69f00", "v", "-."),
    "knn": Look("#7a7a7a", "P", ":"),
    "clustered_maxmax": Look("#56b4e9", "D", "--"),
    "clustered_nearest": Look("#0072b2", "^", "-"),
    "clustered_fused": Look("#009e73", "X", "-."),
}
_PARTITION_LOOKS = {
    "no_distribution": _LOOKS["no_distribution"],
    "single": _LOOKS["no_distribution"],
    "random": _LOOKS["ism"],
    "kmeans": Look("#0072b2", "^", "-."),
}
_PARTITION_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00")

# Colours and markers cannot tell more methods apart than this: then only the scenarios above keep theirs.
MOST_TOLD_APART = 14
OTHERS = Look("#929aa5", ".", "-")


def _readable(name: str, titles: dict[str, str]) -> str:
    return titles.get(name) or " ".join(str(name).replace("_", " ").split()) or "(blank)"


_titles_of_run: ContextVar[Mapping[str, str] | None] = ContextVar("titles_of_run", default=None)


@contextmanager
def titles_of(details: Mapping[str, pd.DataFrame]) -> Iterator[None]:
    """Context in which scenarios have the titles of `details["scenarios"]`; shared titles get the name added."""
    frame = details.get("scenarios")
    titles = {} if frame is None else dict(zip(frame["scenario"], frame["title"], strict=True))
    times = Counter(titles.values())
    token = _titles_of_run.set({name: f"{t} ({name})" if times[t] > 1 else t for name, t in titles.items()})
    try:
        yield
    finally:
        _titles_of_run.reset(token)


def scenario_title(scenario: str) -> str:
    """The title of a scenario (see `titles_of`) or one made from its name; `group=file` is a changed proposal."""
    if title := (_titles_of_run.get() or {}).get(scenario):
        return title
    group, exchanged, name = scenario.partition("=")
    if exchanged:
        return f"Proposal, {group} {_readable(name, {})}"
    title = _readable(scenario, _TITLES)
    return title[:1].upper() + title[1:]


def reference_title(scenario: str) -> str:
    """The name of a scenario within a sentence."""
    return _IN_SENTENCES.get(scenario) or scenario_title(scenario).replace("Random", "random")


def choice_title(name: str) -> str:
    """The title of a partitioner, or of a router ("representative" in the paper's Table 1)."""
    return _readable(name, _CHOICES)


def partition_title(name: str) -> str:
    """The title of a partition: of a partitioner, or of a scenario whose networks are its own."""
    if name in ("single", "none", ""):
        return scenario_title("no_distribution")
    return choice_title(name) if name in ("random", "kmeans") else scenario_title(name)


def known_first(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The distinct names: the known ones in their order, then all others by name."""
    rank = {name: i for i, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def partition_order(names: Iterable[str]) -> list[str]:
    """The distinct partitions: undistributed, random, k-means, then all others by name."""
    return known_first(names, ("no_distribution", "single", "random", "kmeans"))


VALIDATION = " (validation images)"  # end of the name of a data set with evaluate=validation


def is_synthetic(dataset: str) -> bool:
    """Whether a data set is generated: its name starts with "synthetic"."""
    return str(dataset).lower().startswith("synthetic")


def data_title(dataset: str, extractor: str = "") -> str:
    """The title of a data set, with the extractor unless empty, such as "lfw, edgeface"."""
    name = str(dataset)
    if is_synthetic(name):
        plain = name.lower() in ("synthetic", f"synthetic{VALIDATION}")
        name = f"synthetic identities{name[9:]}" if plain else f"{name} (synthetic)"
    return f"{name}, {extractor}" if extractor else name


def scenario_order(scenarios: Iterable[str]) -> list[str]:
    """The distinct scenarios: the paper's first, in its order, then all others by name."""
    return known_first(scenarios, _TITLES)


def label_methods(results: pd.DataFrame) -> pd.DataFrame:
    """Adds the titles `data` and `method`, and sorts the rows in the order in which they are shown.

    A method is a scenario. If rows of a scenario differ in a setting, and would otherwise be averaged, the setting is
    appended: m at the same N; partitioner, loss, initialisation, router and decision anywhere.

    Args:
        results: rows of results.csv; `run`, `data_fingerprint` and the numbers of samples are optional.

    Returns:
        A copy, text columns as str and number columns as float, sorted by data set (real before synthetic), N, scenario
        and seed.
    """
    frame = results.reset_index(drop=True)
    for name in ("run", "data_fingerprint", "setting"):  # a setting: the `key=value` in which merged runs differ
        frame[name] = frame[name] if name in frame else ""
    for one in (*TABLE, *added(frame)):
        if one in SAMPLES and one.name not in frame:
            frame[one.name] = math.nan
        if one.holds == "text":
            frame[one.name] = frame[one.name].astype(object).where(frame[one.name].notna(), "").astype(str)
        else:
            frame[one.name] = pd.to_numeric(frame[one.name]).astype(float)
    # Baselines do not say how many samples they had; all rows of a place and seed have the same.
    place = frame.groupby(["dataset", "n_identities", "seed"])
    for one in SAMPLES:
        frame[one.name] = frame[one.name].fillna(place[one.name].transform("max"))
    # A row that could not be run names no extractor: that makes no second one.
    named = frame["extractor"].where(frame["extractor"] != "")
    several = named.groupby(frame["dataset"]).transform("nunique") > 1
    frame["data"] = list(map(data_title, frame["dataset"], frame["extractor"].where(several, "")))
    labels = frame["scenario"].map(scenario_title)
    for scenario, rows in frame.groupby("scenario"):
        shown = pd.DataFrame(index=rows.index)
        for column, name in VARIANTS.items():
            places = ["data", "n_identities"] if column == "n_subnets" else ["scenario"]
            if (rows.groupby(places)[column].nunique(dropna=False) > 1).any():
                values = rows[column].map(lambda v: f"{v:.0f}" if isinstance(v, float) else v or "none")
                shown[column] = ("" if column == "setting" else f"{name}=") + values.astype(str)
        if len(shown.columns):
            labels[rows.index] = f"{scenario_title(str(scenario))} [" + shown.agg(", ".join, axis=1) + "]"
    frame["method"] = labels
    frame["_rank"] = frame["scenario"].map(scenario_order(frame["scenario"]).index)
    frame["_synthetic"] = frame["dataset"].map(is_synthetic)
    by = ["_synthetic", "data", "n_identities", "_rank", "method", "run", "seed"]
    return frame.sort_values(by, kind="stable", ignore_index=True).drop(columns=["_rank", "_synthetic"])


def at_largest_n(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each data set's largest N."""
    return frame[frame["n_identities"] == frame.groupby("data")["n_identities"].transform("max")]


def method_order(frame: pd.DataFrame) -> list[str]:
    """The distinct methods of a labelled frame, scenarios in their order."""
    methods = frame.groupby("scenario")["method"].unique()
    return [method for scenario in scenario_order(methods.index) for method in sorted(methods[scenario])]


def with_data_title(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of details with the column `data`."""
    return rows.assign(data=rows["dataset"].map(data_title))


def partition_looks(partitions: Iterable[str]) -> dict[str, Look]:
    """The look of each partition, in their order."""
    names = partition_order(partitions)
    if len(names) > MOST_TOLD_APART:
        return {name: _PARTITION_LOOKS.get(name, OTHERS) for name in names}
    further = [name for name in names if name not in _PARTITION_LOOKS]
    dashes = [(0, (4, 1 + i % 3)) for i in range(len(further))]
    made = dict(zip(further, map(Look, cycle(_PARTITION_COLOURS), cycle("Dv<>ph"), dashes), strict=True))
    return {name: _PARTITION_LOOKS[name] for name in names if name in _PARTITION_LOOKS} | made


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """The look of each method of a labelled frame: known scenarios have fixed colours, and variants share one.

    With more methods than `MOST_TOLD_APART` all but the known scenarios look like `OTHERS`.
    """
    crowded = frame["method"].nunique() > MOST_TOLD_APART
    further = [scenario for scenario in scenario_order(frame["scenario"]) if scenario not in _LOOKS]
    made = map(Look, cycle(_FURTHER_COLOURS), cycle(_FURTHER_MARKERS), cycle(_DASHES))
    first = _LOOKS | dict(zip(further, made, strict=False))
    scenario_of = dict(zip(frame["method"], frame["scenario"], strict=True))
    result: dict[str, Look] = {}
    for method in method_order(frame):
        scenario = scenario_of[method]
        look, earlier = first[scenario], sum(scenario_of[other] == scenario for other in result)
        if earlier:
            marker = _FURTHER_MARKERS[(earlier - 1) % len(_FURTHER_MARKERS)]
            look = Look(look.colour, marker, _DASHES[(_DASHES.index(look.dashes) + earlier) % len(_DASHES)])
        result[method] = OTHERS if crowded and scenario not in _LOOKS else look
    return result
